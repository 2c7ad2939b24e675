//! Whole folders, written, read back and turned into pages.

use std::path::Path;

use batchlab::analysis::{Analysis, Context};
use batchlab::report::{Report, ResultsFolder, SavedSweep, remeasure, tables, write_page};
use batchlab::scheduler::Padding;
use batchlab::sweep::{CellResult, CellSpec, Measured, PolicyKind};
use batchlab::telemetry::{GpuReading, GpuSample};
use tempfile::tempdir;

use crate::made::{SHAPE, Shape, cell, closed, header, poisson};

fn write(folder: &Path, cells: &[Measured], samples: &[GpuSample]) {
    let mut results = ResultsFolder::create(folder).unwrap();
    for cell in cells {
        results.append(cell, samples).unwrap();
    }
    let cells: Vec<CellResult> = cells.iter().map(|c| c.result.clone()).collect();
    let header = header(cells.len(), "<b>bold</b> & 'model'");
    let report = Report::of(header, &cells);
    results.write_report(&report).unwrap();
}

/// The page of a folder.
fn page(folder: &Path) -> String {
    let saved = SavedSweep::open(folder).unwrap();
    let context = Context {
        kv_pool_bytes: saved.header.kv.unwrap().predicted_bytes,
        samples: &|index| saved.samples(index),
        own: None,
    };
    let analysis = Analysis::of(&saved.cells, &context).unwrap();
    let page = write_page(&saved, &analysis, None, folder).unwrap();
    std::fs::read_to_string(page).unwrap()
}

fn ladder() -> Vec<Measured> {
    let one = |(index, rows)| {
        let shape = Shape {
            rows,
            service_ms: 100.0 + rows as f64,
            pages_used: 10 * rows,
            ..SHAPE
        };
        cell(index, closed(rows), shape)
    };
    [1, 4, 8].into_iter().enumerate().map(one).collect()
}

#[test]
fn what_was_written_is_read_back() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("r");
    let sample = GpuSample {
        at: std::time::Duration::from_millis(1500),
        reading: GpuReading {
            gpu_power_w: Some(300.5),
            ..GpuReading::default()
        },
    };
    let cells = ladder();
    write(&folder, &cells, std::slice::from_ref(&sample));
    let saved = SavedSweep::open(&folder).unwrap();
    assert_eq!(saved.cells, cells);
    assert_eq!(saved.header.cells_total, 3);
    assert_eq!(saved.samples(2).unwrap(), [sample]);
    assert_eq!(saved.samples(7).unwrap(), []);
}

#[test]
fn the_knee_of_a_servers_open_loads_is_a_load() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("r");
    let loads = [(1, 100.0, 8.0), (8, 120.0, 60.0), (40, 500.0, 75.0)];
    let one = |(index, (rows, service_ms, rate)): (usize, (usize, f64, f64))| {
        let spec = CellSpec {
            policy: PolicyKind::Server,
            window_ms: None,
            ..poisson(0, rate)
        };
        let shape = Shape {
            rows,
            service_ms,
            rate: Some(rate),
            ..SHAPE
        };
        cell(index, spec, shape)
    };
    let cells: Vec<Measured> = loads.into_iter().enumerate().map(one).collect();
    write(&folder, &cells, &[]);
    assert!(page(&folder).contains("knee: 60.00 req/s"));
}

#[test]
fn a_page_is_whole_escaped_and_needs_nothing_else() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("r");
    let mut cells = ladder();
    for c in &mut cells {
        c.result.cell.prompts = "<script>alert(1)</script>".into();
    }
    write(&folder, &cells, &[]);
    let page = page(&folder);
    assert!(
        !page.contains("<script") && page.contains("&lt;script&gt;"),
        "not escaped"
    );
    assert!(
        !page.contains("<b>bold") && page.contains("&lt;b&gt;bold"),
        "not escaped"
    );
    // Links only within the page and to its pictures; no style, font or script from elsewhere.
    for link in page
        .split(" href=\"")
        .skip(1)
        .chain(page.split(" src=\"").skip(1))
    {
        assert!(
            link.starts_with('#') || link.starts_with("pictures/"),
            "{}",
            &link[..40]
        );
    }
    assert!(!page.contains("@import") && !page.contains("url("));
    for link in page
        .split(" href=\"")
        .skip(1)
        .filter(|l| l.starts_with("pictures/"))
    {
        let file = folder.join(&link[..link.find('"').unwrap()]);
        assert!(
            file.metadata().is_ok_and(|m| m.len() > 500),
            "{}",
            file.display()
        );
    }
    for id in [
        "conclusion",
        "picks",
        "verdicts",
        "cells",
        "how",
        "trade-off-1",
        "scaling",
        "kv-cache",
    ] {
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
    // Every picture has its numbers.
    let figures = page.matches("<figure").count();
    assert!(figures >= 6 && page.matches("<summary>numbers</summary>").count() == figures);
}

#[test]
fn poor_sweeps_still_make_a_page() {
    let failed = Shape {
        failed: 20,
        ..SHAPE
    };
    let open = Shape {
        rate: Some(10.0),
        ..SHAPE
    };
    let cases: [(&str, Vec<Measured>); 4] = [
        ("no cell", vec![]),
        ("one cell", vec![cell(0, closed(1), SHAPE)]),
        (
            "all failed",
            vec![cell(0, closed(1), failed), cell(1, closed(4), failed)],
        ),
        ("one open load", vec![cell(0, poisson(4, 10.0), open)]),
    ];
    for (name, cells) in cases {
        let dir = tempdir().unwrap();
        let folder = dir.path().join("r");
        write(&folder, &cells, &[]);
        let page = page(&folder);
        assert!(
            page.contains("no feasible configuration") || name.starts_with("one"),
            "{name}"
        );
        assert!(!page.contains("NaN") && !page.contains("inf "), "{name}");
    }
}

#[test]
fn missing_requests_and_cells_are_told_and_damage_is_named() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("r");
    write(&folder, &ladder(), &[]);
    // As after a crash: one cell fewer than planned, and one without its requests.
    let report = std::fs::read_to_string(folder.join("report.json")).unwrap();
    std::fs::write(
        folder.join("report.json"),
        report.replace("\"cells_total\": 3", "\"cells_total\": 5"),
    )
    .unwrap();
    std::fs::remove_file(folder.join("requests/cell-0001.csv")).unwrap();
    assert!(page(&folder).contains("3 of 5 cells were measured"));

    let refused = |file: &str, text: &str| {
        let path = folder.join(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, text).unwrap();
        let error = SavedSweep::open(&folder).unwrap_err();
        std::fs::write(&path, whole).unwrap();
        assert_eq!(error.exit_code(), 5);
        error.to_string()
    };
    assert!(refused("report.json", "{").contains("report.json is damaged"));
    assert!(refused("report.json", "[1]").contains("report.json is damaged"));
    assert!(refused("report.json", "{}").contains("is no report of batchlab"));
    let old = refused("report.json", "{\"batchlab_version\": \"0.1.0\"}");
    assert!(
        old.contains("results of format 1") && old.contains("measure again"),
        "{old}"
    );
    assert!(refused("cells.jsonl", "{}\n").contains("line 1 is damaged"));
    assert!(
        refused("requests/cell-0002.csv", "run,id\nx,y\n").contains("cell-0002.csv is damaged")
    );
    let csv = std::fs::read_to_string(folder.join("requests/cell-0002.csv")).unwrap();
    let cut: String = csv.lines().take(9).map(|l| format!("{l}\n")).collect();
    let cut = refused("requests/cell-0002.csv", &cut);
    assert!(
        cut.contains("cell-0002.csv does not hold all requests"),
        "{cut}"
    );
    let last = csv.lines().last().unwrap();
    let run = format!("7{}", &last[1..]);
    let run = refused("requests/cell-0002.csv", &csv.replace(last, &run));
    assert!(run.contains("is damaged at request 159 of run 7"), "{run}");
    let endless = csv.replacen("1000.0", "inf", 1);
    assert!(refused("requests/cell-0002.csv", &endless).contains("is damaged at request"));
    let line = std::fs::read_to_string(folder.join("cells.jsonl")).unwrap();
    let first = line.lines().next().unwrap();
    assert!(refused("cells.jsonl", &format!("{first}\n{first}\n")).contains("cell 0 twice"));
    assert!(refused("cells.jsonl", "").contains("is empty or missing"));
    let nowhere = SavedSweep::open(&dir.path().join("nowhere"))
        .unwrap_err()
        .to_string();
    assert!(
        nowhere.contains("give the --output of a sweep"),
        "{nowhere}"
    );
}

#[test]
fn a_continuous_cell_is_measured_again_by_its_own_options() {
    let mut c = cell(0, closed(4), SHAPE).result;
    c.cell.policy = PolicyKind::Continuous;
    c.cell.padding = Padding::Ragged;
    c.cell.window_ms = Some(5.0);
    let command = remeasure(&header(1, "m"), &c);
    assert!(command.contains("--policies continuous --batch-sizes 4 --prefill-windows-ms 5 "));
    assert!(!command.contains("--padding"), "{command}");
    c.cell.window_ms = None;
    assert!(!remeasure(&header(1, "m"), &c).contains("windows-ms"));
}

#[test]
fn thousands_of_cells_stay_a_page_of_a_few_megabytes() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("r");
    let short = Shape {
        batches: 4,
        output: 2,
        ..SHAPE
    };
    let cells: Vec<Measured> = (0..3000)
        .map(|i| {
            let mut spec = closed(1 + i % 50);
            spec.window_ms = Some((i / 50) as f64);
            cell(i, spec, short)
        })
        .collect();
    write(&folder, &cells, &[]);
    let page = page(&folder);
    assert!(page.len() < 8 << 20, "{} bytes", page.len());
    assert!(page.contains("more rows are in summary.csv"));
}

#[test]
fn thousands_of_curves_stay_a_few_pictures() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("r");
    let cells: Vec<Measured> = (0..2000)
        .map(|i| {
            let rate = 10.0 + (i % 2) as f64;
            let mut spec = poisson(4, rate);
            spec.window_ms = Some((i / 2) as f64);
            let shape = Shape {
                batches: 4,
                output: 2,
                rate: Some(rate),
                ..SHAPE
            };
            cell(i, spec, shape)
        })
        .collect();
    write(&folder, &cells, &[]);
    let page = page(&folder);
    assert!(
        page.matches("<figure").count() < 60,
        "{}",
        page.matches("<figure").count()
    );
    assert!(page.contains("more pictures of this kind were not drawn"));
}

/// What people read on the terminal, to the letter.
#[test]
fn the_tables_of_a_small_sweep() {
    let results: Vec<CellResult> = ladder().into_iter().map(|c| c.result).collect();
    let text = tables(&results);
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!(lines.join("\n"), include_str!("tables.txt").trim_end());
}
