//! Tables on the terminal, at most 120 columns wide.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use super::columns::{Column, LATENCY, Mark, RESOURCES, few_samples, short_window};
use super::number::short;
use crate::metrics::Statistics;
use crate::sweep::{CellResult, CellSpec, LoadSpec};
use crate::telemetry::{ComparedQuantity, SHORTEST_WINDOW};

const WIDTH: usize = 120;

/// All tables of a sweep: for each load and workload one with latency and throughput, one with
/// what they cost.
pub fn tables(results: &[CellResult]) -> String {
    let mut groups: Vec<(String, Vec<&CellResult>)> = Vec::new();
    for result in results {
        let title = title(&result.cell);
        match groups.iter_mut().find(|(t, _)| *t == title) {
            Some((_, members)) => members.push(result),
            None => groups.push((title, vec![result])),
        }
    }
    let mut text = String::new();
    for (title, members) in &groups {
        text += &format!("\n{}\n", clipped(title));
        text += &format!("{}\n", latency(members));
        text += &format!("{}\n", resources(members));
        for note in notes(members) {
            text += &format!("{note}\n");
        }
    }
    text
}

fn title(cell: &CellSpec) -> String {
    let load = match cell.load {
        LoadSpec::Closed { .. } => {
            "Closed loop: each client sends its next request when its last returns".into()
        }
        LoadSpec::HalfOfClosed { .. } => {
            "Poisson: half the request rate that the closed loop reached at this batch size".into()
        }
        LoadSpec::Poisson { rate, .. } => format!("Poisson: {rate} requests per second"),
        LoadSpec::Offline => "Offline: all requests at once".to_string(),
    };
    format!("{load} · output {} · {}", cell.output_len, cell.prompts)
}

/// Cut to the width, since a title holds the user's own text.
fn clipped(text: &str) -> String {
    let line = text.replace(char::is_control, " ");
    match line.chars().count() > WIDTH {
        true => line.chars().take(WIDTH - 1).chain(['…']).collect(),
        false => line,
    }
}

fn latency(results: &[&CellResult]) -> Table {
    let load = match results[0].cell.load {
        LoadSpec::Closed { .. } => Some("clients"),
        LoadSpec::Poisson { .. } | LoadSpec::HalfOfClosed { .. } => Some("req/s\nsent"),
        LoadSpec::Offline => None,
    };
    let mut header = vec!["policy", "batch", "window\nms"];
    header.extend(load);
    header.extend(LATENCY.iter().map(|c| c.heading));
    header.push("n");
    let mut table = empty(header);
    for result in results {
        let mut row = setting(&result.cell);
        row.extend(load.map(|_| match result.cell.load {
            LoadSpec::Closed { concurrency } => concurrency.to_string(),
            _ => short(result.request_rate),
        }));
        row.extend(LATENCY.iter().map(|c| value(result, c)));
        let n: usize = result.runs.iter().map(|r| r.summary.completed).sum();
        row.push(n.to_string());
        table.add_row(row);
    }
    aligned(table)
}

fn resources(results: &[&CellResult]) -> Table {
    let headings = RESOURCES.iter().map(|c| c.heading);
    let mut table = empty(
        ["policy", "batch", "window\nms"]
            .into_iter()
            .chain(headings)
            .collect(),
    );
    for result in results {
        let mut row = setting(&result.cell);
        row.extend(RESOURCES.iter().map(|c| value(result, c)));
        table.add_row(row);
    }
    aligned(table)
}

fn setting(cell: &CellSpec) -> Vec<String> {
    let window = cell.window_ms.map_or("–".into(), |w| w.to_string());
    vec![cell.policy.to_string(), cell.batch_size.to_string(), window]
}

fn value(result: &CellResult, column: &Column) -> String {
    let value = result.mean(column.of);
    let mut text = short(value);
    let interval = column
        .confidence
        .and_then(|name| result.confidence.get(name));
    if let Some(interval) = interval {
        text += &format!(" ±{}", short(Some(interval.half_width)));
    }
    let mark = match column.mark {
        Mark::FewSamples if few_samples(result) => "*",
        Mark::ShortWindow if short_window(result) => "†",
        _ => "",
    };
    if value.is_some() {
        text += mark;
    }
    text
}

fn notes(results: &[&CellResult]) -> Vec<String> {
    let mut notes = Vec::new();
    if results.iter().any(|r| few_samples(r)) {
        let n = Statistics::P95_SAMPLES;
        notes.push(format!(
            "* P95 of fewer than {n} requests in a run: raise --num-prompts"
        ));
    }
    if results.iter().any(|r| short_window(r)) {
        let s = SHORTEST_WINDOW.as_secs();
        notes.push(format!(
            "† measured for less than {s} s, so NVML's averages are rough: raise --min-seconds"
        ));
    }
    if results
        .iter()
        .any(|r| r.runs.iter().any(|run| run.gpu.is_some()))
    {
        notes.push(
            "GPU util: NVML's share of time in which any kernel ran, not how full the GPU was"
                .into(),
        );
    }
    if results.iter().any(|r| !r.confidence.is_empty()) {
        notes.push("±: half width of the 95 % Student-t interval over the runs".into());
    }
    for result in results {
        let failed: usize = result.runs.iter().map(|r| r.summary.failed).sum();
        if failed > 0 {
            let all: usize = result.runs.iter().map(|r| r.summary.requests).sum();
            notes.push(format!(
                "{}: {failed} of {all} requests timed out or were rejected",
                result.cell
            ));
        }
    }
    notes
}

/// What a sweep would measure.
pub fn dry_run(cells: &[CellSpec]) -> String {
    let mut table = empty(vec![
        "#",
        "policy",
        "batch",
        "window ms",
        "load",
        "output",
        "prompts",
    ]);
    for (i, cell) in cells.iter().enumerate() {
        let mut row = vec![(i + 1).to_string()];
        row.extend(setting(cell));
        row.extend([
            cell.load.to_string(),
            cell.output_len.clone(),
            cell.prompts.replace(char::is_control, " "),
        ]);
        table.add_row(row);
    }
    table.to_string()
}

/// NVML beside nvidia-smi.
pub fn comparison(rows: &[ComparedQuantity]) -> String {
    let mut table = empty(vec!["quantity", "unit", "NVML", "nvidia-smi", "difference"]);
    for row in rows {
        table.add_row(vec![
            row.quantity.to_string(),
            row.unit.to_string(),
            short(row.nvml),
            short(row.nvidia_smi),
            short(row.difference),
        ]);
    }
    table.to_string()
}

fn empty(header: Vec<&str>) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH as u16)
        .set_header(header);
    table
}

/// Numbers to the right; one space between columns is enough.
fn aligned(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
