//! `plan` and `generate --profile` as a user runs them, on the CPU.

use std::fs;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

fn batchlab(args: &[&str]) -> assert_cmd::assert::Assert {
    Command::cargo_bin("batchlab").unwrap().args(args).assert()
}

fn plan(args: &[&str]) -> assert_cmd::assert::Assert {
    batchlab(&[&["plan"], args].concat())
}

fn parsed(assert: &assert_cmd::assert::Assert) -> Value {
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

/// A folder that holds this config.json and nothing else.
fn folder(config: &Value) -> TempDir {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn llama2() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": false,
    })
}

#[test]
fn day2_examples_to_the_byte() {
    plan(&[
        "--model=dummy:distilgpt2",
        "--batch-size=4",
        "--seq-len=100",
        "--dtype=f32",
        "--gpu-memory=80GiB",
    ])
    .success()
    .stdout(contains("14,745,600").and(contains("81,912,576")))
    .stdout(contains("36,864 B a token").and(contains("all 1024")));
    // From a config.json alone; without the scratch of long prompts, 59 sequences of 1 GiB fit.
    let llama = folder(&llama2());
    let path = llama.path().to_str().unwrap();
    let args = [
        "--batch-size=32",
        "--seq-len=2048",
        "--input-len=1",
        "--gpu-memory=80GiB",
    ];
    plan(&[&["--model", path], &args[..]].concat())
        .success()
        .stdout(contains("34,359,738,368").and(contains("6,738,415,616")))
        .stdout(contains("largest batch at 2,048 tokens: 59"));
}

#[test]
fn several_batch_sizes_grow_linearly_and_json_has_it_all() {
    let args = [
        "--model=dummy:gpt2",
        "--batch-size=1,4,8",
        "--seq-len=512",
        "--gpu-memory=4GiB",
        "--json",
    ];
    let json = parsed(&plan(&args).success());
    let bytes = |i: usize| json["batch_sizes"][i]["kv_bytes"].as_u64().unwrap();
    // 12 layers, 12 heads of 64, bf16: 36,864 B a token.
    assert_eq!(
        [bytes(0), bytes(1), bytes(2)],
        [1, 4, 8].map(|b| b * 512 * 36_864)
    );
    assert_eq!(json["parameters"], 124_439_808);
    assert_eq!(json["kv_bytes_per_token"], 36_864);
    assert_eq!(json["largest_batch"]["limited_by"], "memory");
    let largest = json["largest_batch"]["value"].as_u64().unwrap();
    for (batch, fits) in [(largest, true), (largest + 1, false)] {
        let batch = format!("--batch-size={batch}");
        let json = parsed(&plan(&[&args[..1], &[&batch], &args[2..]].concat()).success());
        assert_eq!(json["batch_sizes"][0]["fits"], fits);
    }
}

#[test]
fn without_a_gpu_sizes_are_shown_without_the_fit() {
    if std::path::Path::new("/proc/driver/nvidia/version").exists() {
        eprintln!("skipped: this machine has an NVIDIA driver");
        return;
    }
    plan(&["--batch-size=4", "--seq-len=100"])
        .success()
        .stdout(contains("batchlab-shakespeare").and(contains("fits").not()))
        .stderr(
            predicate::str::starts_with("sizes without a fit (no GPU: ")
                .and(contains("--gpu-memory")),
        );
}

#[test]
fn verify_opens_exactly_that_and_finds_it_as_predicted() {
    let args = [
        "--device=cpu",
        "--batch-size=2,4",
        "--seq-len=64",
        "--verify",
    ];
    plan(&args)
        .success()
        .stdout(contains("predicted").and(contains("allocated")))
        .stdout(predicate::function(|text: &str| {
            text.lines().all(|line| line.chars().count() <= 120)
        }));
    let json = parsed(&plan(&[&args[..], &["--json"]].concat()).success());
    for (i, rows) in [2, 4].into_iter().enumerate() {
        let kv = &json["verified"][i]["memory"]["kv"];
        // 4 layers of 2 heads of 64 in f32: 4096 B a token.
        assert_eq!(kv["predicted_bytes"], rows * 64 * 4096);
        assert_eq!(kv["allocated_bytes"], kv["predicted_bytes"]);
    }
    // The checkpoint's own type, beside a KV cache in f32.
    assert_eq!(json["dtype"], "bf16");
    let in_f32 = parsed(&plan(&[&args[..], &["--json", "--dtype=f32"]].concat()).success());
    let weights = |json: &Value| {
        let weights = &json["verified"][0]["memory"]["weights"];
        assert_eq!(weights["allocated_bytes"], weights["predicted_bytes"]);
        weights["allocated_bytes"].as_u64().unwrap()
    };
    assert!(weights(&json) < weights(&in_f32));
}

#[test]
fn bad_input_is_one_clear_line() {
    let spoilt = |key: &str, value: Value| {
        let mut config = llama2();
        config[key] = value;
        folder(&config)
    };
    let mamba = spoilt("model_type", json!("mamba"));
    let groups = spoilt("num_key_value_heads", json!(5));
    let missing = spoilt("intermediate_size", Value::Null);
    let zero = spoilt("num_hidden_layers", json!(0));
    let path = |dir: &TempDir| format!("--model={}", dir.path().display());
    let folders = [&mamba, &groups, &missing, &zero].map(path);
    let cases: [(&[&str], i32, &str); 14] = [
        (&["--batch-size=0"], 2, "--batch-size"),
        (&["--batch-size=1,,2"], 2, "--batch-size"),
        (&["--batch-size=1000000000000"], 2, "use 1 to 16777216"),
        (&["--seq-len=0"], 2, "--seq-len"),
        (
            &["--seq-len=513"],
            2,
            "--seq-len is 513, but the context of batchlab-shakespeare is 512",
        ),
        (&["--seq-len=8", "--input-len=9"], 2, "--input-len is 9"),
        (&["--gpu-memory=80XB"], 2, "--gpu-memory"),
        (&["--gpu-memory=0"], 2, "--gpu-memory"),
        (&["--model=dummy:gpt5"], 3, "dummy:llama-7b"),
        (&[&folders[0]], 3, "\"mamba\", expected one of gpt2, llama"),
        (
            &[&folders[1]],
            3,
            "a divisor of \"num_attention_heads\", 32",
        ),
        (&[&folders[2]], 3, "\"intermediate_size\" is missing"),
        (&[&folders[3]], 3, "\"num_hidden_layers\" is 0"),
        (&["--device=cpu", "--dtype=f16"], 4, "f32 or bf16, not f16"),
    ];
    for (args, code, names) in cases {
        plan(args)
            .code(code)
            .stdout("")
            .stderr(predicate::str::starts_with("error: ").and(contains(names)))
            .stderr(predicate::function(|text: &str| text.lines().count() == 1));
    }
}

const GENERATE: [&str; 5] = [
    "generate",
    "--device=cpu",
    "--prompt=To be, or not",
    "--max-new-tokens=4",
    "--ignore-eos",
];

#[test]
fn a_profile_comes_after_the_text() {
    let text = batchlab(&GENERATE).success().get_output().stdout.clone();
    let text = String::from_utf8(text).unwrap();
    batchlab(&[&GENERATE[..], &["--profile", "--num-runs=2"]].concat())
        .success()
        .stdout(predicate::str::starts_with(text.trim_end()))
        .stdout(
            contains("prefill")
                .and(contains("decode"))
                .and(contains("±")),
        )
        .stdout(contains("bound by memory").and(contains("by neither")))
        .stdout(predicate::function(|text: &str| {
            text.lines().all(|line| line.chars().count() <= 120)
        }));
}

#[test]
fn a_profile_as_json_adds_up() {
    let args = [&GENERATE[..], &["--profile", "--num-runs=2", "--json"]].concat();
    let json = parsed(&batchlab(&args).success());
    let runs = json["profile"]["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert!(!json["outputs"][0].as_str().unwrap().is_empty());
    for run in runs {
        let number = |key: &str| run[key].as_f64().unwrap();
        let phase = |name: &str, key: &str| run[name][key].as_f64().unwrap();
        assert_eq!(run["output_tokens"], 4);
        assert_eq!(run["prefill"]["steps"], 1);
        assert_eq!(run["decode"]["steps"], 3);
        assert!(phase("prefill", "ms") + phase("decode", "ms") <= number("e2el_ms"));
        assert!(phase("prefill", "flop") > phase("decode", "flop") / 3.0);
        let shares = [
            "memory_bound_percent",
            "compute_bound_percent",
            "neither_percent",
        ];
        let sum: f64 = shares.iter().map(|key| number(key)).sum();
        assert!((sum - 100.0).abs() < 1e-6, "{sum}");
    }
    let interval = &json["over_runs"]["decode_ms_per_step"];
    assert!(interval["mean"].as_f64().unwrap() > 0.0 && interval["half_width"].is_f64());
}

#[test]
fn profile_options_need_profile() {
    for option in ["--num-runs=2", "--json"] {
        batchlab(&[&GENERATE[..], &[option]].concat())
            .code(2)
            .stderr(contains("--profile"));
    }
    batchlab(&[&GENERATE[..], &["--profile", "--num-runs=0"]].concat())
        .code(2)
        .stderr(contains("--num-runs"));
}
