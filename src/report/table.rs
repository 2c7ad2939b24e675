//! Tables on the terminal, at most 120 columns wide.

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use super::columns::{CLIENT, Column, LATENCY, Mark, RESOURCES, few_samples, short_window};
use crate::metrics::{ClientCost, Counted, Statistics};
use crate::number::short;
use crate::sweep::{CellResult, CellSpec, LoadSpec, PolicyKind, Reference};
use crate::telemetry::{ComparedQuantity, SHORTEST_WINDOW};

const WIDTH: usize = 120;

/// A rule above, below and under the header; nothing between rows and columns.
const STYLE: TableStyle = TableStyle::new()
    .top_border(LineStyle::none().fill('─').junction('─'))
    .header_separator(LineStyle::none().fill('─').junction('─'))
    .bottom_border(LineStyle::none().fill('─').junction('─'));

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
        text += &format!("{}\n\n", latency(members));
        // Of a server without a GPU nothing of it is known.
        if RESOURCES
            .iter()
            .any(|c| members.iter().any(|r| r.mean(c.of).is_some()))
        {
            text += &format!("{}\n", resources(members));
        }
        if members[0].runs.iter().any(|run| run.client.is_some()) {
            text += &format!("\nThe client itself\n{}\n", client(members));
        }
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
        LoadSpec::Share {
            percent,
            of: Reference::OwnBatch,
            ..
        } => format!(
            "Poisson: {percent} % of the request rate that the closed loop reached at this batch size"
        ),
        LoadSpec::Share {
            percent,
            of: Reference::LargestBatch,
            ..
        } => format!(
            "Poisson: {percent} % of the request rate that the largest batch reached in a closed loop"
        ),
        // One table for all shares: a server is what it is under each of them.
        LoadSpec::Share { .. } => {
            "Poisson: shares of the best request rate that a closed loop reached".into()
        }
        LoadSpec::Poisson { rate, .. } => format!("Poisson: {rate} requests per second"),
        LoadSpec::Offline => "Offline: all requests at once".to_string(),
    };
    let padding = match cell.policy {
        PolicyKind::Server => String::new(),
        _ => format!(" · {}", cell.padding),
    };
    format!(
        "{load}{padding} · output {} · prompt: {}",
        cell.output_len, cell.prompts
    )
}

/// One line, since labels hold the user's own text.
pub(super) fn clipped(text: &str) -> String {
    cut(text, WIDTH)
}

/// One line of at most `width` characters.
fn cut(text: &str, width: usize) -> String {
    let line = text.replace(char::is_control, " ");
    match line.chars().count() > width {
        true => line.chars().take(width - 1).chain(['…']).collect(),
        false => line,
    }
}

/// Clients or requests per second, under their heading.
fn load(result: &CellResult) -> Option<(&'static str, String)> {
    match result.cell.load {
        LoadSpec::Closed { concurrency } => Some(("clients", concurrency.to_string())),
        LoadSpec::Poisson { .. } | LoadSpec::Share { .. } => {
            Some(("req/s\nsent", short(result.request_rate)))
        }
        LoadSpec::Offline => None,
    }
}

fn latency(results: &[&CellResult]) -> Table {
    let mut header = vec!["policy", "batch", "window\nms"];
    header.extend(load(results[0]).map(|(heading, _)| heading));
    header.extend(LATENCY.iter().map(|c| c.heading));
    header.push("n");
    let mut table = empty(header);
    for result in results {
        let mut row = setting(&result.cell);
        row.extend(load(result).map(|(_, value)| value));
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

/// What the client of a server cost, under each load.
fn client(results: &[&CellResult]) -> Table {
    let mut header = vec!["policy"];
    header.extend(load(results[0]).map(|(heading, _)| heading));
    header.extend(CLIENT.iter().map(|c| c.heading));
    let mut table = empty(header);
    for result in results {
        let mut row = vec![result.cell.policy.to_string()];
        row.extend(load(result).map(|(_, value)| value));
        row.extend(CLIENT.iter().map(|c| value(result, c)));
        table.add_row(row);
    }
    aligned(table)
}

fn setting(cell: &CellSpec) -> Vec<String> {
    let window = cell.window_ms.map_or("–".into(), |w| w.to_string());
    let size = match cell.policy {
        PolicyKind::Server => "–".into(),
        _ => cell.batch_size.to_string(),
    };
    vec![cell.policy.to_string(), size, window]
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
            let what = format!("{failed} of {all} requests timed out, were rejected or failed");
            notes.push(clipped(&format!("{what}: {}", result.cell)));
        }
    }
    for result in results {
        let preempted: usize = result
            .runs
            .iter()
            .filter_map(|r| Some(r.summary.executed?.preemptions_total))
            .sum();
        if preempted > 0 {
            let what = format!("{preempted} times a row gave its KV pages to an older one");
            notes.push(clipped(&format!("{what}: {}", result.cell)));
        }
    }
    let clients = results.iter().flat_map(|r| &r.runs);
    let counted = clients.filter_map(|run| Some(run.client.as_ref()?.counted));
    if let Some(counted) = counted.max().filter(|c| *c != Counted::EachChunk) {
        notes.push(clipped(&counted.to_string()));
    }
    notes.extend(results.iter().flat_map(|r| of_client(r)));
    notes
}

/// What a server's client says of its runs.
fn of_client(result: &CellResult) -> Vec<String> {
    let cell = &result.cell;
    let clients = || result.runs.iter().filter_map(|r| r.client.as_ref());
    let mut notes = Vec::new();
    if let Some(doubt) = clients().find_map(ClientCost::doubt) {
        notes.push(format!(
            "the client may be what was measured, {doubt}: {cell}"
        ));
    }
    let early: usize = clients().map(|c| c.ended_early).sum();
    if early > 0 {
        notes.push(format!(
            "{early} outputs ended before the length that was asked for: {cell}"
        ));
    }
    let causes = clients().flat_map(|c| &c.failures);
    if let Some((cause, count)) = causes.max_by_key(|(_, count)| **count) {
        notes.push(format!("{count} times: {cause}: {cell}"));
    }
    notes.iter().map(|note| clipped(note)).collect()
}

/// What a sweep would measure.
pub fn dry_run(cells: &[CellSpec]) -> String {
    let header = [
        "#",
        "policy",
        "batch",
        "window ms",
        "padding",
        "load",
        "output",
        "prompts",
    ];
    let mut table = empty(header.into());
    for (i, cell) in cells.iter().enumerate() {
        let mut row = vec![(i + 1).to_string()];
        row.extend(setting(cell));
        row.push(cell.padding.to_string());
        row.push(cell.load.to_string());
        row.push(cut(&cell.output_len, 16));
        row.push(cut(&cell.prompts, 40));
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

/// A table with this header and no rows.
pub(super) fn empty(header: Vec<&str>) -> Table {
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH as u16)
        .set_header(header);
    table
}

/// Numbers to the right; one space between columns is enough.
pub(super) fn aligned(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
        column.set_padding((1, 0));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Summary;
    use crate::scheduler::Padding;
    use crate::sweep::{PolicyKind, RunResult};
    use crate::telemetry::GpuUsage;

    /// A cell whose every number is as wide as numbers get.
    fn wide(load: LoadSpec, gpu: Option<GpuUsage>) -> CellResult {
        let statistics = Statistics::of(vec![1_234_567.8, 9_999_999.9], &[]);
        let mut summary = Summary::of(&[], &[], &[], &[]);
        summary.e2el_ms = statistics.clone();
        summary.ttft_ms = statistics.clone();
        summary.tpot_ms = statistics.clone();
        summary.queue_ms = statistics;
        summary.output_throughput = 1_234_567.8;
        summary.completed = 1_000_000;
        summary.failed = 3;
        let run = RunResult {
            summary,
            gpu,
            j_per_output_token: Some(0.001_234),
            client: None,
        };
        let interval = crate::metrics::confidence_interval(&[1e6, 2e6], 0.95).unwrap();
        let confidence = ["e2el_ms_mean", "output_throughput"];
        CellResult {
            index: 0,
            cell: CellSpec {
                padding: Padding::Padded,
                policy: PolicyKind::Dynamic,
                batch_size: 4096,
                window_ms: Some(12_345.678),
                prompts: "a very long prompt\nof two lines ".repeat(20),
                output_len: "16-64:0.123456,512-1024:0.876544,".repeat(9),
                load,
            },
            request_rate: Some(123_456.7),
            runs: vec![run.clone(), run],
            confidence: confidence.map(|name| (name.into(), interval)).into(),
        }
    }

    const LOADS: [LoadSpec; 4] = [
        LoadSpec::Closed {
            concurrency: 123_456,
        },
        LoadSpec::Share {
            percent: 12.345,
            of: Reference::OwnBatch,
            burstiness: 1.0,
        },
        LoadSpec::Poisson {
            rate: 123_456.789,
            burstiness: 1.0,
        },
        LoadSpec::Offline,
    ];

    #[test]
    fn no_line_is_wider_than_120_columns() {
        let gpu = GpuUsage {
            gpu_utilization_percent: Some(100.0),
            gpu_memory_used_bytes: Some(140 << 30),
            gpu_power_w: Some(699.9),
            gpu_window_short: true,
            ..GpuUsage::default()
        };
        for gpu in [None, Some(gpu)] {
            let results = LOADS.map(|load| wide(load, gpu.clone()));
            let cells = results.clone().map(|r| r.cell);
            for line in (tables(&results) + &dry_run(&cells)).lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
        }
    }

    #[test]
    fn unknown_is_a_dash_and_doubt_is_marked() {
        let text = tables(&[wide(LoadSpec::Offline, None)]);
        assert!(
            text.contains('–') && text.contains("* P95 of fewer than 200"),
            "{text}"
        );
        assert!(text.contains("6 of 0 requests timed out"), "{text}");
        assert!(!text.contains('†'), "{text}");
        let short = GpuUsage {
            gpu_power_w: Some(300.0),
            gpu_window_short: true,
            ..GpuUsage::default()
        };
        let text = tables(&[wide(LoadSpec::Offline, Some(short))]);
        assert!(text.contains("300.0†"), "{text}");
    }
}
