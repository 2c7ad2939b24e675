//! Greedy answers are those of `batchlab generate`, whoever else asks.

use std::process::Command;
use std::thread;

use serde_json::json;

use crate::client::{streamed_texts, texts};
use crate::process::Served;

const CLIENTS: usize = 64;
const LONGEST: usize = 40;
const PROMPTS: [&str; 8] = [
    "HAMLET:",
    "JULIET:\nO Romeo,",
    "Shall I compare thee to a summer's day? Thou art",
    "The",
    "KING HENRY:\nOnce more unto the breach, dear friends, once more; Or close the wall up with our",
    "\n",
    "To be, or not to be",
    "Enter a Messenger.\n\nMESSENGER:\nMy lord, the queen, my lord, is dead. The king of France",
];

/// What `generate` says after each prompt.
fn generated() -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batchlab"));
    command.args(["generate", "--device=cpu", "--max-new-tokens"]);
    command.arg(LONGEST.to_string());
    for prompt in PROMPTS {
        command.args(["--prompt", prompt]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success());
    let mut rest = String::from_utf8(output.stdout).unwrap();
    let mut texts = Vec::new();
    for prompt in PROMPTS.iter().rev() {
        let begin = format!("=== {prompt}\n");
        let at = rest.rfind(&begin).unwrap();
        let text = rest.split_off(at)[begin.len()..].to_owned();
        texts.push(text.strip_suffix('\n').unwrap().to_owned());
    }
    texts.reverse();
    texts
}

#[test]
fn many_clients_with_mixed_lengths_get_what_generate_writes() {
    let expected = generated();
    for policy in [
        &["--max-num-seqs=16", "--max-num-batched-tokens=48"][..],
        &["--policy=dynamic", "--max-batch-size=16"],
    ] {
        let served = Served::start(policy);
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (served, expected) = (&served, &expected);
                scope.spawn(move || {
                    let which = client % PROMPTS.len();
                    let length = [1, 7, 19, LONGEST][client / PROMPTS.len() % 4];
                    let ask = json!({
                        "prompt": PROMPTS[which], "max_tokens": length, "temperature": 0,
                    });
                    let text = match client % 2 {
                        0 => texts(&served.complete(&ask))[0].to_owned(),
                        _ => streamed_texts(&served.stream("/v1/completions", &ask).events())
                            .remove(0),
                    };
                    match length {
                        LONGEST => assert_eq!(text, expected[which]),
                        _ => assert!(expected[which].starts_with(&text), "{text:?}"),
                    }
                });
            }
        });
        assert_eq!(served.metric("requests_running"), Some(0.0));
        assert_eq!(served.metric("kv_pages_used"), Some(0.0));
    }
}
