//! The binary as a user runs it: what it says, what it exits with, what it leaves behind.

use std::fs;
use std::path::Path;
use std::process::{Command as Process, Stdio};

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use tempfile::tempdir;

/// Two cells, a few requests: seconds.
const SMALL: [&str; 14] = [
    "sweep",
    "--device=cpu",
    "--batch-sizes=2",
    "--windows-ms=0",
    "--output-len=4",
    "--num-prompts=4",
    "--num-warmups=1",
    "--min-seconds=0",
    "--num-runs=2",
    "--metric-percentiles=75",
    "--policies=dynamic",
    "--prompt=Hello",
    "--seed=7",
    "--padding=ragged",
];

fn batchlab() -> Command {
    Command::cargo_bin("batchlab").unwrap()
}

fn small(dir: &Path) -> Command {
    let mut command = batchlab();
    command.args(SMALL).arg("--output").arg(dir);
    command
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

fn report(dir: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(dir.join("report.json")).unwrap()).unwrap()
}

#[test]
fn no_subcommand_is_help() {
    batchlab().assert().success().stdout(
        contains("sweep")
            .and(contains("generate"))
            .and(contains("gpu")),
    );
    for subcommand in ["sweep", "generate", "plan", "gpu"] {
        batchlab().args([subcommand, "--help"]).assert().success();
    }
}

#[test]
fn dry_run_shows_the_grid_and_leaves_nothing() {
    let dir = tempdir().unwrap();
    batchlab()
        .current_dir(&dir)
        .args(["sweep", "--dry-run"])
        .assert()
        .success()
        .stdout(contains("18 cells").and(contains("closed loop, 8 clients")));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

/// Of several experiments one that reads an option is enough.
#[test]
fn options_of_one_policy_go_with_any_experiment_that_has_it() {
    batchlab()
        .args(["sweep", "--dry-run", "--experiment=day2,mixed-lengths"])
        .args(["--prefill-windows-ms=5", "--max-num-batched-tokens=64"])
        .args(["--max-num-seqs=3", "--padding=ragged"])
        .assert()
        .success()
        .stdout(contains("continuous").and(contains("closed loop, 3 clients")));
}

/// Each line: what is asked, what the message must name.
#[test]
fn bad_input_is_one_clear_line() {
    let dir = tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        format!("--prompt-file={}", path.display())
    };
    let latin1 = write("latin1.txt", b"caf\xe9\n");
    let blank = write("blank.txt", b"\n \n");
    let cases: [(&[&str], i32, &str); 32] = [
        (
            &["--batch-sizes=0"],
            2,
            "--batch-sizes: 0 is not a batch size; use 1",
        ),
        (&["--batch-sizes=4,x"], 2, "--batch-sizes"),
        (&["--batch-sizes="], 2, "--batch-sizes"),
        (
            &["--windows-ms=nan"],
            2,
            "--windows-ms: NaN is not a wait window; use 0",
        ),
        (&["--windows-ms", "-5,10"], 2, "--windows-ms: -5 is not"),
        (&["--windows-ms=inf"], 2, "--windows-ms"),
        (&["--policies=eager"], 2, "eager"),
        (&["--num-prompts=0"], 2, "--num-prompts is 0"),
        (&["--num-runs=0"], 2, "--num-runs is 0"),
        (&["--min-seconds=-1"], 2, "--min-seconds is -1"),
        (&["--metric-percentiles=101"], 2, "101"),
        (&["--timeout-ms=0"], 2, "--timeout-ms is 0"),
        (&["--load=poisson"], 2, "give --request-rate"),
        (&["--request-rate=-2"], 2, "--request-rate is -2"),
        (
            &["--max-concurrency=2", "--request-rate=2"],
            2,
            "give one of them",
        ),
        (&["--output-len=0"], 2, "is not a length"),
        (&["--output-len=100000"], 2, "the context of"),
        (&["--prompt="], 2, "--prompt is empty"),
        (&["--prompt-file=/nowhere/p.txt"], 2, "/nowhere/p.txt"),
        (&[&latin1], 2, "not UTF-8 at byte 3"),
        (&[&blank], 2, "no prompt in it"),
        (&["--model=/nowhere/model"], 3, "/nowhere/model"),
        (&["--kv-block-size=12"], 2, "power of two"),
        (&["--batch-size=4"], 2, "--batch-sizes"),
        (
            &["--policies=continuous", "--max-num-batched-tokens=31"],
            2,
            "--max-num-batched-tokens 31 is less than a KV page of 32 tokens; raise it",
        ),
        (
            &[
                "--policies=static,continuous",
                "--batch-sizes=8,64",
                "--max-num-batched-tokens=63",
            ],
            2,
            "--max-num-batched-tokens 63 is less than the 64 rows that may run",
        ),
        (
            &["--prefill-windows-ms=-1"],
            2,
            "--prefill-windows-ms: -1 is not a wait window",
        ),
        (
            &["--policies=static", "--prefill-windows-ms=5"],
            2,
            "--prefill-windows-ms is for continuous; add that to --policies or leave",
        ),
        (
            &["--policy=static", "--max-num-batched-tokens=2048"],
            2,
            "--max-num-batched-tokens is for continuous",
        ),
        (
            &["--policies=static,continuous", "--windows-ms=5"],
            2,
            "--windows-ms is for dynamic",
        ),
        (
            &["--policies=continuous", "--preferred-batch-size=4"],
            2,
            "--preferred-batch-size is for dynamic",
        ),
        (
            &["--policies=continuous", "--padding=padded"],
            2,
            "--padding is for static or dynamic",
        ),
    ];
    for (args, code, names) in cases {
        batchlab()
            .current_dir(&dir)
            .args(["sweep", "--device=cpu"])
            .args(args)
            .assert()
            .code(code)
            .stdout("")
            .stderr(contains(names))
            .stderr(predicate::function(|text: &str| {
                let errors = text.lines().filter(|l| l.starts_with("error: "));
                errors.count() == 1 && text.trim_end().lines().count() <= 2
            }));
    }
    assert!(!dir.path().join("results").exists());
}

#[test]
fn a_sweep_prints_its_tables_and_can_be_resumed() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("r");
    small(&out)
        .assert()
        .success()
        .stdout(
            contains("Closed loop")
                .and(contains("Poisson"))
                .and(contains("±")),
        )
        .stdout(predicate::function(|text: &str| {
            text.lines().all(|line| line.chars().count() <= 120)
        }));
    assert_eq!(lines(&out.join("cells.jsonl")), 2);
    let mut csv = csv::Reader::from_path(out.join("summary.csv")).unwrap();
    let column = csv
        .headers()
        .unwrap()
        .iter()
        .position(|h| h == "e2el_ms_p75")
        .unwrap();
    let rows: Vec<_> = csv.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2);
    assert!(
        rows.iter()
            .all(|row| row[column].parse::<f64>().unwrap() > 0.0)
    );
    let saved = report(&out);
    assert_eq!(saved["status"], "complete");
    assert_eq!(saved["config"]["measure"]["seed"], 7);
    assert_eq!(saved["cells"][0]["runs"][0]["summary"]["output_tokens"], 16);
    assert!(saved["gpu"].is_null() && saved["machine"]["os"].is_string());
    let (kv, memory) = (&saved["kv"], &saved["memory"]);
    assert!(kv["predicted_bytes"].as_u64().unwrap() > 0);
    assert_eq!(kv["allocated_bytes"], kv["predicted_bytes"]);
    assert_eq!(memory["kv"]["allocated_bytes"], kv["allocated_bytes"]);
    assert!(memory["weights"]["allocated_bytes"].as_u64().unwrap() > 0);
    assert!(memory["gpu_memory_used_before_bytes"].is_null());

    // Not overwritten without --resume.
    small(&out)
        .assert()
        .code(5)
        .stderr(contains("is not empty"));
    // Another grid is refused with what differs, and nothing is lost.
    small(&out)
        .args(["--resume", "--output-len=3"])
        .assert()
        .code(2)
        .stderr(contains(
            "grids[0].output_lens is [\"4\",\"3\"], was [\"4\"]",
        ));
    // As after a crash: the last line is torn.
    let cells = fs::read_to_string(out.join("cells.jsonl")).unwrap();
    let first = cells.lines().next().unwrap();
    fs::write(out.join("cells.jsonl"), format!("{first}\n{{\"cell\": {{")).unwrap();
    small(&out)
        .arg("--resume")
        .assert()
        .success()
        .stderr(contains("cell 2/2").and(contains("cell 1/2").not()));
    let cells = fs::read_to_string(out.join("cells.jsonl")).unwrap();
    assert_eq!(cells.lines().next(), Some(first));
    assert_eq!(cells.lines().count(), 2);
    assert_eq!(report(&out)["cells"].as_array().unwrap().len(), 2);
}

#[test]
fn the_policies_stand_side_by_side() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("r");
    batchlab()
        .args(["sweep", "--device=cpu", "--experiment=mixed-lengths"])
        .args(["--batch-sizes=4", "--input-len=4-40", "--output-len=2-20"])
        .args(["--num-prompts=16", "--min-seconds=0"])
        .args(["--prefill-windows-ms=0,5", "--max-num-batched-tokens=32"])
        .arg(format!("--output={}", out.display()))
        .assert()
        .success()
        .stdout(contains("in times of static").and(contains("join and leave")));
    let saved = report(&out);
    let cells = saved["policies"][0]["cells"].as_array().unwrap();
    let settings: Vec<_> = cells.iter().map(|c| c["setting"].as_str()).collect();
    let wanted = [
        "static ragged",
        "dynamic 0 ms ragged",
        "continuous 0 ms",
        "continuous 5 ms",
    ];
    assert_eq!(settings, wanted.map(Some));
    assert!(cells[0]["idle_row_steps_percent"].as_f64() > Some(0.0));
    assert_eq!(cells[2]["idle_row_steps_percent"], 0.0);
    assert_eq!(cells[0]["e2el_ms_mean"]["times_static"], 1.0);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("id=\"policies-1\"") && page.contains("id=\"rows-cell-0000\""));
}

#[test]
fn unwritable_outputs_and_missing_results_say_so() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    small(&file.join("below"))
        .assert()
        .code(5)
        .stderr(contains("cannot be written"));
    small(Path::new("/proc/batchlab"))
        .assert()
        .code(5)
        .stderr(contains("cannot be written"));
    small(&dir.path().join("nothing"))
        .arg("--resume")
        .assert()
        .code(5)
        .stderr(contains("--resume").and(contains("an earlier sweep")));
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn ctrl_c_keeps_what_is_done() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("r");
    // A thousand cells, so that the signal finds it at work.
    let windows: Vec<String> = (0..1000).map(|ms| ms.to_string()).collect();
    let mut child = Process::new(assert_cmd::cargo::cargo_bin("batchlab"))
        .args([
            "sweep",
            "--device=cpu",
            "--load=closed",
            "--batch-sizes=1",
            "--output-len=2",
        ])
        .args(["--num-prompts=2", "--num-warmups=0", "--min-seconds=0"])
        .arg(format!("--windows-ms={}", windows.join(",")))
        .arg("--output")
        .arg(&out)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let cells = out.join("cells.jsonl");
    while fs::read_to_string(&cells).map_or(0, |text| text.lines().count()) < 1 {
        assert!(
            child.try_wait().unwrap().is_none(),
            "ended before its first cell"
        );
        std::thread::yield_now();
    }
    let id = child.id().to_string();
    assert!(
        Process::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("--resume"), "{stderr}");
    let kept = lines(&cells);
    let saved = report(&out);
    assert_eq!(saved["status"], "interrupted");
    assert_eq!(saved["cells"].as_array().unwrap().len(), kept);
    assert!((kept as u64) < saved["cells_total"].as_u64().unwrap());
}

#[test]
fn without_a_gpu_the_gpu_command_says_so() {
    if Path::new("/proc/driver/nvidia/version").exists() {
        eprintln!("skipped: this machine has an NVIDIA driver");
        return;
    }
    for args in [["gpu", "--once"], ["gpu", "--compare-nvidia-smi"]] {
        batchlab().args(args).assert().code(4).stdout("").stderr(
            predicate::str::starts_with("error: ").and(predicate::function(|text: &str| {
                text.trim_end().lines().count() == 1
            })),
        );
    }
    batchlab()
        .args(SMALL)
        .arg("--dry-run")
        .assert()
        .success()
        .stdout(contains("2 cells"));
}

#[test]
fn a_library_that_panics_on_a_damaged_tokenizer_is_not_heard() {
    let model = tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt2-f32");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture.join(file), model.path().join(file)).unwrap();
    }
    let json = fs::read(fixture.join("tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    json["normalizer"] = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "AA=="});
    fs::write(model.path().join("tokenizer.json"), json.to_string()).unwrap();
    let output = batchlab()
        .args(["generate", "--prompt=a", "--model"])
        .arg(model.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("is not a tokenizer"), "{stderr}");
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let mut child = Process::new(env!("CARGO_BIN_EXE_batchlab"))
        .args([
            "generate",
            "--device=cpu",
            "--prompt=To be",
            "--max-new-tokens=200",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains("error"), "{stderr}");
}
