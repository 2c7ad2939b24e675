//! `batchlab generate` as a user runs it: conversations, stop strings and what it says of bad input.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use tempfile::{TempDir, tempdir};

fn generate() -> Command {
    let mut command = Command::cargo_bin("batchlab").unwrap();
    command.args(["generate", "--device=cpu"]);
    command
}

fn stdout(command: &mut Command) -> String {
    let output = command.assert().success().get_output().stdout.clone();
    String::from_utf8(output).unwrap()
}

/// A model's folder with a chat template; its text says which messages it got.
fn model(template: &[u8]) -> TempDir {
    let folder = tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt2-f32");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(fixture.join(file), folder.path().join(file)).unwrap();
    }
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

const TEMPLATE: &str =
    "{{ '[' }}{% for m in messages %}{{ m.role + ':' + m.content.strip() }}{% endfor %}{{ ']' }}";

#[test]
fn chat_continues_the_rendered_template() {
    let folder = model(TEMPLATE.as_bytes());
    let answer = |args: &[&str]| {
        let mut command = generate();
        command.args(["--max-new-tokens=8", "--model"]);
        stdout(command.arg(folder.path()).args(args))
    };
    let plain = answer(&["--prompt", "[user:hello]"]);
    assert_eq!(answer(&["--chat", "--prompt", " hello "]), plain);
    assert_ne!(answer(&["--prompt", " hello "]), plain);

    let plain = answer(&["--prompt", "[system:be briefuser:hello]"]);
    let chat = ["--chat", "--system", "be brief", "--prompt", "hello"];
    assert_eq!(answer(&chat), plain);

    // Several prompts are several conversations.
    let both = answer(&["--chat", "--prompt", "hello", "--prompt", "the dog"]);
    for prompt in ["hello", "the dog"] {
        let alone = answer(&["--chat", "--prompt", prompt]);
        assert!(both.contains(&format!("=== {prompt}\n{alone}")), "{both}");
    }
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let text = |args: &[&str]| {
        let mut command = generate();
        stdout(
            command
                .args(["--prompt=HAMLET:", "--max-new-tokens=40"])
                .args(args),
        )
    };
    let whole = text(&[]);
    // From inside a word to inside another, so that neither end is a token's.
    let letters: Vec<usize> = whole.char_indices().map(|(at, _)| at).collect();
    let middle = letters.len() / 2;
    let stop = &whole[letters[middle]..letters[middle + 7]];
    let expected = &whole[..whole.find(stop).unwrap()];
    assert!(!expected.trim().is_empty() && expected.len() < whole.len() - 7);

    assert_eq!(text(&["--stop", stop]), format!("{expected}\n"));
    // Of several the first that comes; what never comes changes nothing.
    assert_eq!(
        text(&["--stop", "\u{1}", "--stop", stop]),
        format!("{expected}\n")
    );
    assert_eq!(text(&["--stop", "\u{1}"]), whole);
    // Alike in a batch, whose other rows go on.
    let batch = text(&["--stop", stop, "--prompt=JULIET:"]);
    let shown = format!("=== HAMLET:\n{expected}\n=== JULIET:\n");
    assert!(batch.starts_with(&shown), "{batch}");
    assert!(batch.len() > shown.len() + 7, "{batch}");
}

#[test]
fn continuous_batching_writes_the_same_texts() {
    let run = |args: &[&str]| {
        let mut command = generate();
        command.args([
            "--prompt=HAMLET:",
            "--prompt=O Romeo, Romeo! wherefore art thou",
        ]);
        command.args(["--prompt=Enter", "--max-new-tokens=24", "--kv-block-size=8"]);
        stdout(command.args(args))
    };
    let together = run(&[]);
    assert_eq!(together.matches("=== ").count(), 3);
    let rows = ["--policy=continuous", "--max-num-seqs=2"];
    assert_eq!(run(&rows), together);
    // Prompts in parts.
    assert_eq!(
        run(&[rows[0], rows[1], "--max-num-batched-tokens=8"]),
        together
    );
    assert_eq!(run(&["--policy=continuous"]), together);

    let mut command = generate();
    command.args(["--prompt=Hi", "--policy=continuous", "--profile"]);
    command
        .assert()
        .code(2)
        .stderr(contains("leave out --policy continuous"));
}

#[test]
fn it_says_why_outputs_ended() {
    let run = |stop: &[&str]| {
        let mut command = generate();
        command
            .args(["--prompt=HAMLET:", "--max-new-tokens=30"])
            .args(stop);
        command.assert().success()
    };
    let length = "30 output tokens";
    run(&[]).stderr(contains(length).and(contains("0 stop, 1 length")));
    // Fewer tokens were computed, not only shown.
    run(&["--stop", "my"]).stderr(contains(length).not().and(contains("1 stop, 0 length")));
}

#[test]
fn a_profile_repeats_the_stopped_generation() {
    let mut command = generate();
    command.args([
        "--prompt=HAMLET:",
        "--stop=my",
        "--profile",
        "--json",
        "--num-runs=1",
    ]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&mut command)).unwrap();
    let text = json["outputs"][0].as_str().unwrap();
    assert!(!text.is_empty() && !text.contains("my"), "{text}");
    let tokens = json["profile"]["runs"][0]["output_tokens"].as_u64();
    assert!(tokens.unwrap() < 64, "{tokens:?}");
}

#[test]
fn a_model_without_a_chat_template_says_so() {
    generate()
        .args(["--chat", "--prompt=Hi"])
        .assert()
        .code(3)
        .stdout("")
        .stderr(contains("has no chat template").and(contains("leave out --chat")));
}

#[test]
fn a_broken_template_stops_conversations_only() {
    let refuses = b"{{ raise_exception('Only user\nroles are supported!') }}".as_slice();
    for (template, cause) in [
        (b"{% for %}".as_slice(), "not valid"),
        (b"{{ '\xff' }}", "not UTF-8 at byte 4"),
        (refuses, "Only user roles are supported!"),
    ] {
        let folder = model(template);
        let run = |args: &[&str]| {
            let mut command = generate();
            command.args(["--prompt=Hi", "--max-new-tokens=2", "--model"]);
            command.arg(folder.path()).args(args).assert()
        };
        run(&[]).success();
        run(&["--chat"])
            .code(3)
            .stdout("")
            .stderr(contains("chat_template.jinja").and(contains(cause)))
            .stderr(contains("leave out --chat"))
            .stderr(predicate::function(|text: &str| text.lines().count() == 1));
    }
}

/// Each line: what is asked, what the message must name.
#[test]
fn bad_options_are_one_clear_line() {
    for (option, names) in [
        ("--system=Be brief.", "--chat"),
        ("--stop=", "--stop: a stop string is empty"),
        ("--temperature=-1", "give 0 or a number from 1e-6 on"),
        ("--temperature=nan", "give 0 or a number"),
        ("--temperature=inf", "give 0 or a number"),
        ("--temperature=1e-40", "give 0 or a number from 1e-6 on"),
        ("--top-k=-1", "0 = all"),
        ("--top-k=2.5", "whole number"),
        ("--top-p=0", "above 0 and up to 1"),
        ("--top-p=1.5", "above 0 and up to 1"),
        ("--repetition-penalty=0", "1 = no penalty"),
        ("--repetition-penalty=-2", "1 = no penalty"),
        ("--repetition-penalty=inf", "1 = no penalty"),
        ("--seed=-1", "whole number from 0"),
        ("--policy=dynamic", "possible values: static, continuous"),
        ("--max-num-seqs=0", "at least 1"),
        (
            "--max-num-seqs=2",
            "--max-num-seqs is for continuous; add --policy",
        ),
        (
            "--max-num-batched-tokens=64",
            "--max-num-batched-tokens is for continuous; add --policy",
        ),
    ] {
        generate()
            .args(["--prompt=Hi", option])
            .assert()
            .code(2)
            .stdout("")
            .stderr(contains(names))
            .stderr(predicate::function(|text: &str| text.lines().count() == 1));
    }
}

#[test]
fn a_repetition_penalty_ends_the_repeating() {
    let lines_twice = |penalty: &str| {
        let mut command = generate();
        command.args(["--prompt=HAMLET:", "--max-new-tokens=60"]);
        let text = stdout(command.args(["--repetition-penalty", penalty]));
        let lines: Vec<&str> = text.lines().filter(|l| !l.is_empty()).collect();
        let different: HashSet<&&str> = lines.iter().collect();
        lines.len() - different.len()
    };
    assert!(lines_twice("1") > 0);
    assert_eq!(lines_twice("1.3"), 0);
}
