//! Log-probabilities are those of the CPU runner's logits.

use batchlab::model::Model;
use batchlab::plan::{RowPlan, StepPlan};
use batchlab::runner::cpu::CpuRunner;
use batchlab::runner::{CublasLt, KvBudget, Limits, Runner, RunnerOptions};
use batchlab::sampling::Sampling;
use serde_json::json;

use crate::process::Served;
use crate::spelled::{self, LINE};

const TOLERANCE: f64 = 1e-4;

/// ln softmax after each of the prefixes of `ids` that have at least `prompt` tokens.
fn log_softmax(model: &Model, ids: &[u32], prompt: usize) -> Vec<Vec<f64>> {
    let options = RunnerOptions {
        dtype: None,
        page_size: 32,
        kv: KvBudget::Utilization(0.9),
        limits: Limits {
            max_rows: 1,
            max_tokens: 64,
            max_kv_len: 64,
        },
        cublaslt: CublasLt::Auto,
    };
    let mut runner = CpuRunner::new(model, &options).unwrap();
    let mut after = |len: usize| {
        let plan = StepPlan {
            token_ids: ids[..len].to_vec(),
            rows: vec![RowPlan {
                query_len: len,
                kv_start: 0,
                kv_len: len,
                pages: vec![0, 1],
                sampling: Sampling::GREEDY,
                penalised: Vec::new(),
                sample_index: 0,
                follows: None,
            }],
        };
        runner.execute(&plan).unwrap();
        let logits = runner.logits().unwrap();
        let sum: f64 = logits.iter().map(|&v| f64::from(v).exp()).sum();
        logits.iter().map(|&v| f64::from(v) - sum.ln()).collect()
    };
    (prompt..ids.len()).map(&mut after).collect()
}

#[test]
fn values_are_those_of_the_model() {
    let served = Served::start(&[]);
    let model = Model::open(None).unwrap();
    let prompt = model.tokenizer.encode("Shall I compare thee").unwrap();
    let answer = served.complete(&json!({
        "prompt": prompt, "max_tokens": 12, "seed": 3, "logprobs": 5, "ignore_eos": true,
    }));
    let choice = &answer["choices"][0];
    let list = |name: &str| choice["logprobs"][name].as_array().unwrap().clone();
    let (tokens, chosen, top) = (list("tokens"), list("token_logprobs"), list("top_logprobs"));
    assert_eq!([tokens.len(), chosen.len(), top.len()], [12; 3]);

    // The tokens are the text, each at its place.
    let mut text = String::new();
    for (token, offset) in tokens.iter().zip(list("text_offset")) {
        assert_eq!(offset, text.chars().count());
        text += token.as_str().unwrap();
    }
    assert_eq!(choice["text"], *text);

    // Ids by their names, which this text has one of each.
    let id = |name: &str| {
        let ids = model.tokenizer.encode(name).unwrap();
        assert_eq!(ids.len(), 1, "{name:?}");
        ids[0]
    };
    let mut ids = prompt.clone();
    ids.extend(tokens.iter().map(|token| id(token.as_str().unwrap())));
    let expected = log_softmax(&model, &ids, prompt.len());
    for (i, expected) in expected.iter().enumerate() {
        let of = |name: &str, told: f64| {
            let wanted = expected[id(name) as usize];
            assert!(
                (told - wanted).abs() < TOLERANCE,
                "{name:?}: {told}, not {wanted}"
            );
        };
        of(tokens[i].as_str().unwrap(), chosen[i].as_f64().unwrap());
        let top = top[i].as_object().unwrap();
        // The best five, and the one that was drawn.
        let drawn = top.keys().position(|name| *name == tokens[i]).unwrap();
        assert_eq!(top.len(), 5 + usize::from(drawn == 5));
        let told: Vec<f64> = top.values().map(|v| v.as_f64().unwrap()).collect();
        assert!(told.is_sorted_by(|a, b| a >= b), "{told:?}");
        assert!(told.iter().map(|v| v.exp()).sum::<f64>() <= 1.0 + TOLERANCE);
        for (name, told) in top.keys().zip(told) {
            of(name, told);
        }
        let mut best = expected.clone();
        best.sort_by(|a, b| b.total_cmp(a));
        let worst = top.values().nth(4).unwrap().as_f64().unwrap();
        assert!((worst - best[4]).abs() < TOLERANCE);
    }
}

#[test]
fn the_others_are_not_told_without_being_asked_for() {
    let served = Served::start(&[]);
    let ask = |logprobs: u32| {
        served.complete(
            &json!({"prompt": "a", "max_tokens": 3, "temperature": 0, "logprobs": logprobs}),
        )
    };
    let none = ask(0)["choices"][0]["logprobs"].clone();
    for i in 0..3 {
        let alone = none["top_logprobs"][i].as_object().unwrap();
        assert_eq!(alone.len(), 1);
        assert_eq!(
            alone[none["tokens"][i].as_str().unwrap()],
            none["token_logprobs"][i]
        );
    }
    // Greedy takes the most probable one.
    let one = ask(1)["choices"][0]["logprobs"].clone();
    assert_eq!(one["token_logprobs"], none["token_logprobs"]);
    for i in 0..3 {
        let top = one["top_logprobs"][i].as_object().unwrap();
        assert_eq!(top.values().next().unwrap(), &one["token_logprobs"][i]);
        assert_eq!(*top.keys().next().unwrap(), one["tokens"][i]);
    }
}

/// Also where a part of the text before it is held back, since a stop string may begin there.
#[test]
fn a_token_has_its_place_in_the_text() {
    let model = spelled::model();
    let served = Served::start(&["--model", model.path().to_str().unwrap()]);
    let answer = served.complete(&json!({
        "prompt": "\n", "max_tokens": LINE.len(), "temperature": 0, "logprobs": 0, "stop": ["k no"],
    }));
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], LINE);
    let whole = |bytes: usize| {
        LINE.char_indices()
            .filter(|(at, c)| at + c.len_utf8() <= bytes)
            .count()
    };
    let places: Vec<usize> = (0..LINE.len()).map(whole).collect();
    assert_eq!(choice["logprobs"]["text_offset"], json!(places));
}
