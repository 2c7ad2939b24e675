//! Conclusions on the terminal, at most 120 columns wide.

use comfy_table::Table;

use super::table::{aligned, clipped, empty};
use super::{Header, SavedSweep, remeasure};
use crate::analysis::{
    Advice, Beside, ComparedCell, Comparison, Order, Pair, PolicyCell, PolicyGroup, ScalingPoint,
    Verdict,
};
use crate::number::short;

/// How much longer a step takes with more rows, beside the work. Empty without two batch sizes.
pub fn scaling(points: &[ScalingPoint]) -> String {
    let Some(first) = points.first() else {
        return String::new();
    };
    let times = |v: f64| format!("{}×", short(Some(v)));
    let mut table = empty(vec![
        "rows",
        "work",
        "prefill ms",
        "prefill",
        "decode step ms",
        "decode",
    ]);
    for p in points {
        table.add_row([
            p.rows.to_string(),
            times(p.work),
            short(Some(p.prefill_ms)),
            times(p.prefill_ratio),
            short(Some(p.decode_ms)),
            times(p.decode_ratio),
        ]);
    }
    format!(
        "Time of a full step, in times of batch {}, beside the work\n{table}\n",
        first.rows
    )
}

/// The policies under the same load, in times of static. Empty where one policy was measured.
pub fn policies(groups: &[PolicyGroup]) -> String {
    groups.iter().map(policy_table).collect()
}

fn policy_table(group: &PolicyGroup) -> String {
    let times = |b: &Beside| match b.times_static {
        Some(times) => format!("{} {}×", short(b.value), short(Some(times))),
        None => short(b.value),
    };
    let mut table = empty(vec![
        "setting",
        "idle row\nsteps %",
        "output\ntok/s",
        "TTFT\navg ms",
        "TTFT\nP95 ms",
        "latency\navg ms",
        "latency\nP95 ms",
    ]);
    for c in &group.cells {
        table.add_row([
            c.setting.clone(),
            short(c.idle_row_steps_percent),
            times(&c.output_throughput),
            times(&c.ttft_ms_mean),
            times(&c.ttft_ms_p95),
            times(&c.e2el_ms_mean),
            times(&c.e2el_ms_p95),
        ]);
    }
    let beside = |c: &PolicyCell| c.output_throughput.times_static.is_some();
    let times = match group.cells.iter().any(beside) {
        true => ", in times of static",
        false => "",
    };
    let title = format!(
        "The policies at batch {} under the same load{times} · {}",
        group.batch_size, group.load
    );
    let work = format!("output {} · prompt: {}", group.output_len, group.prompts);
    format!(
        "\n{}\n{}\n{}\n",
        clipped(&title),
        clipped(&work),
        aligned(table)
    )
}

/// day2's expectations and what the data say. Empty where none was to be tested.
pub fn expectations(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return String::new();
    }
    let mut table = empty(vec!["", "expectation", "ruling", "numbers"]);
    for v in verdicts {
        let numbers = match v.numbers.as_str() {
            "–" => &v.why,
            numbers => numbers,
        };
        table.add_row([v.section, &v.claim, &v.ruling.to_string(), numbers]);
    }
    format!("Expectations, tested\n{table}\n")
}

/// What each use is advised, and why.
pub fn picks(header: &Header, advice: &[Advice<'_>]) -> String {
    let mut table = empty(vec!["use", "pick"]);
    for a in advice {
        let mut text = match &a.pick {
            None => format!("{}.", a.reasons().join("; ")),
            Some(pick) => {
                let result = &pick.chosen.cell.result;
                let again = remeasure(header, result);
                let reasons = a.reasons().join("; ");
                format!("{}\n{reasons}.\nagain: {again}", result.cell)
            }
        };
        if a.other_arrivals {
            text += "\n(The sweep had no cells with this use's arrivals; all cells were judged.)";
        }
        table.add_row([
            format!("{}\n{}", a.scenario.name, a.scenario.limits()),
            text,
        ]);
    }
    format!("Picks\n{table}\n")
}

/// Two sweeps side by side.
pub fn comparison_of_sweeps(a: &SavedSweep, b: &SavedSweep, comparison: &Comparison<'_>) -> String {
    let name = |s: &SavedSweep| {
        let (model, runner) = (s.header.model(), &s.header.runner);
        format!(
            "{}: {model} on {runner}, {}",
            s.path.display(),
            s.header.started_utc
        )
    };
    let mut table: Table = empty(vec![
        "setting",
        "A tok/s",
        "B tok/s",
        "B / A",
        "A latency ms",
        "B latency ms",
        "B / A",
        "J/token B / A",
    ]);
    for cell in &comparison.both {
        table.add_row(compared(cell));
    }
    let mut text = format!("A  {}\nB  {}\n", name(a), name(b));
    match comparison.both.is_empty() {
        true => {
            text += "No setting was measured in both: policy, batch size, window, padding, prompts, outputs and load must be the same.\n"
        }
        false => {
            text += &format!(
                "{table}\n↑ ↓: above or below for sure, at 95 %; ≈: cannot be told apart\n"
            )
        }
    }
    if comparison.other_rates > 0 {
        text += &format!(
            "{} settings were sent other request rates in A and B, so they are not compared; give --request-rate\n",
            comparison.other_rates
        );
    }
    for (count, name) in [(comparison.only_a, "A"), (comparison.only_b, "B")] {
        if count > 0 {
            text += &format!("{count} settings are only in {name}, or have no completed request\n");
        }
    }
    text
}

fn compared(cell: &ComparedCell<'_>) -> Vec<String> {
    let ratio = |pair: &Pair| {
        let sign = match pair.order() {
            Order::Above => "↑",
            Order::Below => "↓",
            Order::Unsure => "≈",
        };
        format!("{} {sign}", short(Some(pair.ratio())))
    };
    let (throughput, latency) = (&cell.output_throughput, &cell.latency_ms);
    vec![
        cell.cell.to_string(),
        throughput.a.to_string(),
        throughput.b.to_string(),
        ratio(throughput),
        latency.a.to_string(),
        latency.b.to_string(),
        ratio(latency),
        cell.j_per_output_token.as_ref().map_or("–".into(), ratio),
    ]
}
