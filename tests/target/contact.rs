//! The first contact: what a server takes is found out by trying.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use batchlab::clock::WallClock;
use batchlab::model::Tokenizer;
use batchlab::target::{Asked, Contact, PromptForm, TargetError, contact};
use serde_json::{Value, json};

use crate::server::{Answer, Server, events};

fn asked(url: &str) -> Asked<'static> {
    Asked {
        address: url.parse().unwrap(),
        model: None,
        api_key: None,
        prompts: None,
        ignore_eos: true,
        prompt: vec![10, 11, 12],
    }
}

fn ask(asked: Asked<'_>) -> Result<Contact, TargetError> {
    let tokenizer = Arc::new(Tokenizer::open(None).unwrap().1);
    contact(asked, &tokenizer, WallClock::start())
}

/// Refuses a field as OpenAI's own server does.
fn refusing(field: &'static str) -> Server {
    Server::start(move |asked| match asked.pointer(field) {
        Some(_) => Answer::refusal(400, &format!("unrecognised: {field}")),
        None => Answer::whole(asked),
    })
}

#[test]
fn a_server_that_takes_everything_is_asked_for_everything() {
    let server = Server::start(Answer::whole);
    let contact = ask(Asked {
        api_key: Some("secret"),
        ..asked(&format!("{}/v1/", server.url))
    })
    .unwrap();
    assert_eq!(contact.dialect.model, "scripted");
    assert_eq!(
        (contact.dialect.prompts, contact.notes.len()),
        (PromptForm::Ids, 0)
    );
    let sent = server.asked();
    assert_eq!((sent.len(), &sent[0]["prompt"]), (1, &json!([10, 11, 12])));
    assert_eq!(sent[0]["stream_options"]["continuous_usage_stats"], true);
    let bearer = Some("Bearer secret".to_string());
    assert_eq!(server.authorization(), [bearer.clone(), bearer]);
}

#[test]
fn what_a_server_refuses_is_left_out_and_told() {
    let contact = ask(asked(
        &refusing("/stream_options/continuous_usage_stats").url,
    ))
    .unwrap();
    assert!(
        contact.notes[0].contains("told at the end"),
        "{:?}",
        contact.notes
    );
    let contact = ask(asked(&refusing("/stream_options").url)).unwrap();
    assert!(
        contact.notes[0].contains("did not count tokens"),
        "{:?}",
        contact.notes
    );

    let no_ids = || {
        Server::start(|asked| match &asked["prompt"] {
            Value::Array(_) => Answer::refusal(422, "prompt must be a string"),
            _ => Answer::whole(asked),
        })
    };
    let server = no_ids();
    let contact = ask(asked(&server.url)).unwrap();
    assert_eq!(contact.dialect.prompts, PromptForm::Text);
    assert!(
        contact.notes[0].contains("prompt must be a string"),
        "{:?}",
        contact.notes
    );
    assert!(server.asked().last().unwrap()["prompt"].is_string());
    let ids = Asked {
        prompts: Some(PromptForm::Ids),
        ..asked(&no_ids().url)
    };
    let error = ask(ids).unwrap_err().to_string();
    assert!(error.contains("--target-prompts text"), "{error}");
}

#[test]
fn a_server_that_loads_is_waited_for() {
    let asked_before = AtomicUsize::new(0);
    let server = Server::start(move |asked| match asked_before.fetch_add(1, SeqCst) {
        0 => Answer::refusal(503, "the model is being loaded"),
        _ => Answer::whole(asked),
    });
    let contact = ask(asked(&server.url)).unwrap();
    assert_eq!(
        (contact.dialect.prompts, contact.notes.len()),
        (PromptForm::Ids, 0)
    );
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_text_of_other_length_than_its_prompt_is_told() {
    // Two ids of which the tokenizer makes one.
    let tokenizer = Tokenizer::open(None).unwrap().1;
    let halves = ["H", "AM"].map(|text| tokenizer.encode(text).unwrap()[0]);
    assert_eq!(tokenizer.encode("HAM").unwrap().len(), 1);
    let server = Server::start(|asked| {
        let events = events(asked, 2, "length");
        Answer::of(&events)
    });
    let text = Asked {
        prompts: Some(PromptForm::Text),
        prompt: halves.to_vec(),
        ..asked(&server.url)
    };
    let notes = ask(text).unwrap().notes;
    assert!(notes[0].contains("a prompt of 2 tokens has 1"), "{notes:?}");
}

/// vLLM says in the stream of a 200 that it takes no such tokens.
#[test]
fn a_refusal_in_the_stream_is_one() {
    let no_ids = |asked: &Value| match &asked["prompt"] {
        Value::Array(_) => {
            let error =
                json!({"error": {"message": "Token id 12 is out of vocabulary", "code": 400}});
            Answer::of(&[format!("data: {error}\n\n"), "data: [DONE]\n\n".into()])
        }
        _ => Answer::whole(asked),
    };
    let contact = ask(asked(&Server::start(no_ids).url)).unwrap();
    assert_eq!(contact.dialect.prompts, PromptForm::Text);
    assert!(
        contact.notes[0].contains("out of vocabulary"),
        "{:?}",
        contact.notes
    );
    let ids = Asked {
        prompts: Some(PromptForm::Ids),
        ..asked(&Server::start(no_ids).url)
    };
    let error = ask(ids).unwrap_err().to_string();
    assert!(
        error.contains("--model with the server's own tokenizer"),
        "{error}"
    );
}

#[test]
fn a_server_without_ignore_eos_is_told_by_name() {
    let server = refusing("/ignore_eos");
    let error = ask(asked(&server.url)).unwrap_err().to_string();
    assert!(
        error.contains("ignore_eos") && error.contains("--ignore-eos false"),
        "{error}"
    );
    let without = Asked {
        ignore_eos: false,
        ..asked(&server.url)
    };
    assert!(!ask(without).unwrap().dialect.ignore_eos);
}

#[test]
fn another_count_of_prompt_tokens_is_told() {
    let server = Server::start(|asked| {
        let events = events(asked, 2, "length").into_iter();
        let other = |e: String| e.replace("\"prompt_tokens\":3", "\"prompt_tokens\":4");
        Answer::of(&events.map(other).collect::<Vec<_>>())
    });
    let notes = ask(asked(&server.url)).unwrap().notes;
    assert!(notes[0].contains("4 tokens in a prompt of 3"), "{notes:?}");
}

#[test]
fn no_server_no_key_and_no_path_have_their_remedies() {
    let error = ask(asked("http://127.0.0.1:1")).unwrap_err().to_string();
    assert!(
        error.contains("refused") && error.contains("start the server"),
        "{error}"
    );

    let server = Server::start(|_| Answer::refusal(401, "who are you?"));
    let error = ask(asked(&server.url)).unwrap_err().to_string();
    assert!(
        error.contains("who are you?") && error.contains("OPENAI_API_KEY"),
        "{error}"
    );

    let server = Server::start(|_| Answer::refusal(404, "no such model"));
    let error = ask(asked(&server.url)).unwrap_err().to_string();
    assert!(
        error.contains("no such model") && error.contains("--target-model"),
        "{error}"
    );

    let error = ask(asked(&format!("{}/elsewhere", server.url)))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("404") && error.contains("--target-model NAME"),
        "{error}"
    );
}
