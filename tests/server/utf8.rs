//! Characters of several bytes, each a token, arrive whole.

use serde_json::json;

use crate::client::{streamed_texts, texts};
use crate::process::Served;
use crate::spelled::{self, LINE};

#[test]
fn a_character_of_several_tokens_comes_in_one_piece() {
    let folder = spelled::model();
    let served = Served::start(&["--model", folder.path().to_str().unwrap()]);
    let twice = LINE.len() * 2;
    let ask = json!({"prompt": "\n", "temperature": 0, "max_tokens": twice});
    let whole = served.complete(&ask);
    assert_eq!(texts(&whole), [LINE.repeat(2)]);
    assert_eq!(whole["usage"]["completion_tokens"], twice);

    let events = served.stream("/v1/completions", &ask).events();
    for event in &events {
        let text = event["choices"][0]["text"].as_str().unwrap();
        assert!(!text.contains(char::REPLACEMENT_CHARACTER), "{event}");
    }
    assert_eq!(streamed_texts(&events), [LINE.repeat(2)]);

    // An output that ends inside a character says so, streamed or not.
    let broken = json!({"prompt": "\n", "temperature": 0, "max_tokens": 3});
    assert_eq!(texts(&served.complete(&broken)), ["é\u{fffd}"]);
    let events = served.stream("/v1/completions", &broken).events();
    assert_eq!(streamed_texts(&events), ["é\u{fffd}"]);

    // A stop string may have several tokens to a character, too.
    let stop = json!({"prompt": "\n", "temperature": 0, "max_tokens": twice, "stop": "🙂日"});
    let events = served.stream("/v1/completions", &stop).events();
    assert_eq!(streamed_texts(&events), ["é→"]);
    assert_eq!(
        events.last().unwrap()["choices"][0]["finish_reason"],
        "stop"
    );
}

#[test]
fn an_echoed_prompt_is_the_prompt() {
    let served = Served::start(&[]);
    let prompt = "naïve 日本語 🙂\u{200d}🙂 ﷽";
    let ask = json!({"prompt": prompt, "temperature": 0, "max_tokens": 2, "echo": true});
    let whole = served.complete(&ask);
    let text = texts(&whole)[0].to_owned();
    assert!(
        text.starts_with(prompt) && text.len() > prompt.len(),
        "{text}"
    );
    let events = served.stream("/v1/completions", &ask).events();
    assert_eq!(streamed_texts(&events), [text]);
}

/// Tokens that are parts of characters, and of none, in any order.
#[test]
fn pieces_of_random_bytes_are_those_of_the_whole_answer() {
    let served = Served::start(&["--model", "dummy:distilgpt2"]);
    for seed in 0..4 {
        let ask = json!({"prompt": [1], "temperature": 2, "seed": seed, "max_tokens": 64, "ignore_eos": true});
        let whole = served.complete(&ask);
        let events = served.stream("/v1/completions", &ask).events();
        assert_eq!(streamed_texts(&events), texts(&whole));
    }
}
