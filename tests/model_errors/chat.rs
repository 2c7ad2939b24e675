//! Chat templates that are missing or damaged: only a conversation hears of it.

use std::fs;

use batchlab::model::{Message, ModelError};
use proptest::prelude::*;

use crate::broken::{Broken, assert_says, fixture, open};

/// What asking for the chat template of a folder with these files says.
fn error(files: &[(&str, &str)]) -> ModelError {
    let folder = Broken::copy_of("gpt2-f32");
    for (file, content) in files {
        fs::write(folder.path(file), content).unwrap();
    }
    let model = open(folder.folder.path()).unwrap();
    model.chat_template().unwrap_err()
}

#[test]
fn a_model_without_a_template() {
    for files in [
        [].as_slice(),
        &[(
            "tokenizer_config.json",
            r#"{"bos_token": "<s>", "chat_template": null}"#,
        )],
    ] {
        assert_says(&error(files), &["has no chat template", "leave out --chat"]);
    }
}

#[test]
fn files_that_hold_no_template() {
    let tokenizer = "tokenizer_config.json";
    for (file, content, parts) in [
        (
            tokenizer,
            "{\"chat_template\": ",
            ["not valid JSON", "copy"],
        ),
        (tokenizer, "[]", ["not an object", "copy"]),
        (
            tokenizer,
            r#"{"chat_template": 3}"#,
            ["\"chat_template\" is 3", "expected a text"],
        ),
        (
            tokenizer,
            r#"{"chat_template": [{"name": "tool_use", "template": ""}]}"#,
            [
                "\"chat_template\" is a list of \"tool_use\"",
                "one named \"default\"",
            ],
        ),
        (
            tokenizer,
            r#"{"chat_template": "{{ messages"}"#,
            ["not valid", "leave out --chat"],
        ),
        (
            "chat_template.json",
            r#"{"chat_template": "{% if %}"}"#,
            ["not valid", "leave out --chat"],
        ),
        (
            "chat_template.jinja",
            "{% nothing %}",
            ["not valid", "leave out --chat"],
        ),
    ] {
        let error = error(&[(file, content)]);
        assert_says(&error, &[file]);
        assert_says(&error, &parts);
    }
}

#[test]
fn templates_that_render_nothing_or_never_end() {
    let endless = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}";
    for (template, cause) in [
        ("", "it rendered nothing"),
        (
            "{% if false %}{{ messages }}{% endif %}\n ",
            "it rendered nothing",
        ),
        (endless, "it does not end within 10000000 steps"),
    ] {
        let folder = Broken::copy_of("gpt2-f32");
        fs::write(folder.path("chat_template.jinja"), template).unwrap();
        let template = open(folder.folder.path()).unwrap().chat_template().unwrap();
        let error = template.render(&[Message::user("Hi")]).unwrap_err();
        assert_says(&error, &["chat_template.jinja", cause, "leave out --chat"]);
    }
}

#[test]
fn damaged_special_tokens() {
    let files = [
        ("chat_template.jinja", "{{ bos_token }}"),
        ("special_tokens_map.json", "{"),
    ];
    assert_says(
        &error(&files),
        &["special_tokens_map.json", "not valid JSON", "copy"],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens to a template, it gives a text or an error of one line.
    #[test]
    fn random_damage_to_a_template_never_panics(
        name in prop::sample::select(vec!["llama3", "python-in-jinja"]),
        cut in prop::option::of(0.0..1.0f64),
        flips in prop::collection::vec((any::<usize>(), 0u8..128), 0..6),
    ) {
        let template = fixture("chat").join(name).join("chat_template.jinja");
        let mut bytes = fs::read(template).unwrap();
        let length = bytes.len();
        for (at, value) in flips {
            bytes[at % length] = value;
        }
        if let Some(share) = cut {
            bytes.truncate((length as f64 * share) as usize);
        }
        let folder = Broken::copy_of("gpt2-bare-names");
        fs::write(folder.path("chat_template.jinja"), bytes).unwrap();
        let template = open(folder.folder.path()).unwrap().chat_template();
        if let Err(error) = template.and_then(|t| t.render(&[Message::user("Hi")])) {
            prop_assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
