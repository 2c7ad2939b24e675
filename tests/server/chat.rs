//! `/v1/chat/completions`, whole and streamed.

use std::io::Write;

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::client::{streamed_texts, texts};
use crate::process::Served;

const PATH: &str = "/v1/chat/completions";
const TEMPLATE: &str =
    "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}HAMLET:";

struct Chatting {
    served: Served,
    _template: NamedTempFile,
}

impl Chatting {
    fn start() -> Self {
        let mut template = NamedTempFile::new().unwrap();
        template.write_all(TEMPLATE.as_bytes()).unwrap();
        let path = template.path().to_str().unwrap();
        Self {
            served: Served::start(&["--chat-template", path]),
            _template: template,
        }
    }

    fn chat(&self, body: &Value) -> Value {
        let answer = self.served.post(PATH, body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        answer.json()
    }
}

#[test]
fn a_conversation_is_the_template_continued() {
    let chatting = Chatting::start();
    let plain = chatting.served.complete(&json!({
        "prompt": "SYSTEM: be brief\nUSER: Who art\nthou?\nHAMLET:", "max_tokens": 12, "temperature": 0,
    }));
    let ask = json!({
        "model": "batchlab-shakespeare", "max_tokens": 12, "temperature": 0,
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "Who art"}, {"type": "text", "text": "thou?"}]},
        ],
    });
    let whole = chatting.chat(&ask);
    assert!(whole["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"], plain["usage"]);
    assert_eq!(texts(&whole), texts(&plain));

    let events = chatting.served.stream(PATH, &ask).events();
    let first = json!({"role": "assistant", "content": ""});
    assert_eq!(events[0]["choices"][0]["delta"], first);
    assert!(
        events
            .iter()
            .all(|event| event["object"] == "chat.completion.chunk")
    );
    assert!(
        events[1..]
            .iter()
            .all(|event| event["choices"][0]["delta"].get("role").is_none())
    );
    assert_eq!(
        events.last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );
    assert_eq!(streamed_texts(&events), texts(&plain));
}

#[test]
fn several_answers_with_the_probabilities_of_their_tokens() {
    let chatting = Chatting::start();
    let ask = json!({
        "messages": [{"role": "user", "content": "Speak."}], "max_completion_tokens": 6, "n": 2, "seed": 1,
        "logprobs": true, "top_logprobs": 2, "stream_options": null, "ignore_eos": true,
    });
    let whole = chatting.chat(&ask);
    assert_eq!(whole["choices"].as_array().unwrap().len(), 2);
    for choice in whole["choices"].as_array().unwrap() {
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        assert_eq!(tokens.len(), 6);
        let said: String = tokens
            .iter()
            .map(|t| t["token"].as_str().unwrap())
            .collect();
        assert_eq!(choice["message"]["content"], *said);
        for token in tokens {
            let bytes: Vec<u8> = serde_json::from_value(token["bytes"].clone()).unwrap();
            assert_eq!(bytes, token["token"].as_str().unwrap().as_bytes());
            assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
        }
    }
    let events = chatting.served.stream(PATH, &ask).events();
    assert_eq!(streamed_texts(&events), texts(&whole));
    let mut streamed = [vec![], vec![]];
    for choice in events
        .iter()
        .flat_map(|event| event["choices"].as_array().unwrap())
    {
        let tokens = choice["logprobs"]["content"].as_array();
        let index = choice["index"].as_u64().unwrap() as usize;
        streamed[index].extend(tokens.into_iter().flatten().cloned());
    }
    for (choice, streamed) in whole["choices"].as_array().unwrap().iter().zip(&streamed) {
        let whole = choice["logprobs"]["content"].as_array().unwrap();
        assert_eq!(names(whole), names(streamed));
    }
}

fn names(tokens: &[Value]) -> Vec<&Value> {
    tokens.iter().map(|token| &token["token"]).collect()
}

#[test]
fn without_max_tokens_as_many_as_fit() {
    let chatting = Chatting::start();
    let ask = json!({"messages": [{"role": "user", "content": "Speak."}], "ignore_eos": true});
    assert_eq!(chatting.chat(&ask)["usage"]["total_tokens"], 512);
}
