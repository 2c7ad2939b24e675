//! `/v1/completions`, whole and streamed.

use serde_json::{Value, json};

use crate::client::{streamed_texts, texts};
use crate::process::Served;

const PATH: &str = "/v1/completions";

#[test]
fn an_answer_whole_and_in_pieces() {
    let served = Served::start(&[]);
    let ask = json!({
        "model": "batchlab-shakespeare", "prompt": "HAMLET:", "max_tokens": 12, "temperature": 0,
    });
    let whole = served.complete(&ask);
    let id = whole["id"].as_str().unwrap();
    assert!(id.starts_with("cmpl-"), "{id}");
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["model"], "batchlab-shakespeare");
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 12, "total_tokens": 15});
    assert_eq!(whole["usage"], usage);
    let choice = &whole["choices"][0];
    assert_eq!(choice["index"], 0);
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["logprobs"], Value::Null);

    let events = served.stream(PATH, &ask).events();
    assert_eq!(streamed_texts(&events), texts(&whole));
    let (last, before) = events.split_last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    for event in before {
        assert_eq!(event["object"], "text_completion");
        assert_eq!(event["id"], last["id"]);
        assert_eq!(event["choices"][0]["finish_reason"], Value::Null);
        assert_eq!(event.get("usage"), None);
    }

    let mut with_usage = ask.clone();
    with_usage["stream_options"] = json!({"include_usage": true});
    let events = served.stream(PATH, &with_usage).events();
    let last = events.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"], usage);

    // As vLLM: with every chunk, so that a client knows how many tokens each is.
    with_usage["stream_options"] = json!({"continuous_usage_stats": true});
    let events = served.stream(PATH, &with_usage).events();
    let so_far: Vec<u64> = events
        .iter()
        .map(|event| event["usage"]["completion_tokens"].as_u64().unwrap())
        .collect();
    assert!(so_far.is_sorted() && so_far[0] > 0, "{so_far:?}");
    assert_eq!(events.last().unwrap()["usage"], usage);
}

#[test]
fn without_max_tokens_sixteen() {
    let served = Served::start(&[]);
    let usage = |ask| served.complete(&ask)["usage"]["completion_tokens"].clone();
    assert_eq!(usage(json!({"prompt": "a", "ignore_eos": true})), 16);
    // Fields that ask for nothing.
    let nothing = json!({
        "prompt": "a", "ignore_eos": true, "user": "me", "logit_bias": {}, "best_of": 1, "suffix": null,
        "presence_penalty": 0, "frequency_penalty": 0.0, "stop": null, "n": null, "top_k": -1,
    });
    assert_eq!(usage(nothing), 16);
}

#[test]
fn answers_to_one_prompt_differ_and_a_seed_repeats_them() {
    let served = Served::start(&[]);
    let ask = |n: usize, seed: Value| {
        let body =
            json!({"prompt": "ROMEO:", "max_tokens": 16, "n": n, "seed": seed, "temperature": 1.5});
        served.complete(&body)
    };
    let three = ask(3, json!(5));
    assert_eq!(three["usage"]["completion_tokens"], 48);
    assert_eq!(three["usage"]["prompt_tokens"], 3);
    let [a, b, c] = texts(&three)[..] else {
        panic!("{three}");
    };
    assert!(a != b && b != c && c != a, "{three}");
    assert_eq!(texts(&ask(3, json!(5))), [a, b, c]);
    assert_eq!(texts(&ask(1, json!(5))), [a]);
    assert_ne!(texts(&ask(1, json!(6))), [a]);
    // Without a seed every answer draws anew.
    let free = [ask(1, Value::Null), ask(1, Value::Null)];
    assert_ne!(texts(&free[0]), texts(&free[1]));

    let body = json!({"prompt": "ROMEO:", "max_tokens": 16, "n": 3, "seed": 5, "temperature": 1.5});
    assert_eq!(
        streamed_texts(&served.stream(PATH, &body).events()),
        [a, b, c]
    );
}

#[test]
fn a_stop_string_ends_the_answer_before_it() {
    let served = Served::start(&[]);
    let ask = json!({"prompt": "HAMLET:", "max_tokens": 40, "temperature": 0});
    let whole = served.complete(&ask);
    let text = texts(&whole)[0];
    // From inside a word to inside another.
    let stop = &text[text.len() / 2..text.len() / 2 + 7];
    let expected = &text[..text.find(stop).unwrap()];

    let mut stopped = ask.clone();
    stopped["stop"] = json!(["\u{1}", stop]);
    let answer = served.complete(&stopped);
    assert_eq!(texts(&answer), [expected]);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() < 40);
    assert_eq!(
        streamed_texts(&served.stream(PATH, &stopped).events()),
        [expected]
    );
    // Such requests ended as they asked to.
    served.wait_for("requests_total{reason=\"stop\"}", 2.0);
    assert_eq!(served.metric("requests_total{reason=\"cancelled\"}"), None);
    served.wait_for("ttft_seconds_count", 3.0);
}

/// The engine, which knows no stop strings, ends the request for another reason.
#[test]
fn a_stop_string_in_the_last_token_is_what_ends_the_answer() {
    let served = Served::start(&["--log-format=json"]);
    let ask = json!({
        "prompt": "HAMLET:", "max_tokens": 12, "temperature": 0, "ignore_eos": true,
    });
    let whole = served.complete(&ask);
    let mut stopped = ask.clone();
    stopped["stop"] = texts(&whole)[0].into();
    let answer = served.complete(&stopped);
    assert_eq!(texts(&answer), [""]);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    for reason in ["length", "stop"] {
        let name = format!("requests_total{{reason=\"{reason}\"}}");
        assert_eq!(served.metric(&name), Some(1.0), "{reason}");
    }
    // One that ends before tells its times, too.
    stopped["max_tokens"] = 400.into();
    served.complete(&stopped);
    served.terminate();
    let log = served.ended().1;
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect(line));
    let requests: Vec<Value> = lines.filter(|line| line["message"] == "request").collect();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|r| r["queue_ms"].is_number()), "{log}");
}

#[test]
fn prompts_as_texts_and_token_ids_one_and_many() {
    let served = Served::start(&[]);
    let ask = |prompt: Value| {
        served.complete(&json!({"prompt": prompt, "max_tokens": 8, "temperature": 0}))
    };
    let alone =
        ["HAMLET:", "Shall I compare thee to a", "JULIET:"].map(|prompt| ask(json!(prompt)));
    let alone: Vec<&str> = alone.iter().map(|answer| texts(answer)[0]).collect();
    let all = json!(["HAMLET:", "Shall I compare thee to a", "JULIET:"]);
    let together = ask(all.clone());
    assert_eq!(texts(&together), alone);
    let indices = together["choices"].as_array().unwrap().iter();
    assert_eq!(
        indices
            .map(|c| c["index"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(together["usage"]["completion_tokens"], 24);

    let model = batchlab::model::Model::open(None).unwrap();
    let ids = |text: &str| model.tokenizer.encode(text).unwrap();
    assert_eq!(texts(&ask(json!(ids("HAMLET:")))), [alone[0]]);
    let lists = json!([ids("HAMLET:"), ids("Shall I compare thee to a")]);
    assert_eq!(texts(&ask(lists)), alone[..2]);

    // Choice i is answer i mod n to prompt i / n.
    let twice = json!({"prompt": all, "max_tokens": 8, "temperature": 0, "n": 2, "echo": true});
    let twice = served.complete(&twice);
    for (i, text) in texts(&twice).into_iter().enumerate() {
        let prompt = all[i / 2].as_str().unwrap();
        assert_eq!(text, format!("{prompt}{}", alone[i / 2]));
    }
}
