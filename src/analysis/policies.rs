//! The policies under the same load, each beside static (day2 §4.3).

use std::collections::HashMap;

use serde::Serialize;

use crate::metrics::Statistics;
use crate::scheduler::Padding;
use crate::sweep::{CellResult, PolicyKind, RunResult};

/// Cells of one batch size, load and work, under at least two policies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyGroup {
    pub batch_size: usize,
    pub load: String,
    pub prompts: String,
    pub output_len: String,
    pub cells: Vec<PolicyCell>,
}

/// One cell of a group. Milliseconds; tokens per second.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyCell {
    pub setting: String,
    /// Of the row-steps.
    pub idle_row_steps_percent: Option<f64>,
    pub output_throughput: Beside,
    pub ttft_ms_mean: Beside,
    pub ttft_ms_p95: Beside,
    pub e2el_ms_mean: Beside,
    pub e2el_ms_p95: Beside,
}

/// A value, and in times of that of static; of several static cells, the one with the same padding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Beside {
    pub value: Option<f64>,
    pub times_static: Option<f64>,
}

/// Every group, in the order of the sweep.
pub fn policy_groups<'a>(cells: impl IntoIterator<Item = &'a CellResult>) -> Vec<PolicyGroup> {
    let mut groups: Vec<Vec<&CellResult>> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for result in cells {
        let cell = &result.cell;
        let work = (&cell.prompts, &cell.output_len);
        let key = format!("{:?}", (cell.batch_size, cell.load, work));
        let group = *known.entry(key).or_insert(groups.len());
        if group == groups.len() {
            groups.push(Vec::new());
        }
        groups[group].push(result);
    }
    let policies = |group: &&Vec<&CellResult>| {
        let first = group[0].cell.policy;
        group.iter().any(|r| r.cell.policy != first)
    };
    groups.iter().filter(policies).map(|g| of(g)).collect()
}

fn of(group: &[&CellResult]) -> PolicyGroup {
    let cell = &group[0].cell;
    PolicyGroup {
        batch_size: cell.batch_size,
        load: cell.load.to_string(),
        prompts: cell.prompts.clone(),
        output_len: cell.output_len.clone(),
        cells: group
            .iter()
            .map(|r| beside(r, static_beside(group, r.cell.padding)))
            .collect(),
    }
}

fn static_beside<'a>(group: &[&'a CellResult], padding: Padding) -> Option<&'a CellResult> {
    let fixed = || group.iter().filter(|r| r.cell.policy == PolicyKind::Static);
    let same = fixed().find(|r| r.cell.padding == padding);
    same.or(fixed().next()).copied()
}

fn beside(result: &CellResult, fixed: Option<&CellResult>) -> PolicyCell {
    let quantity = |of: &dyn Fn(&RunResult) -> Option<f64>| {
        let value = result.mean(of);
        let base = fixed.and_then(|r| r.mean(of)).filter(|base| *base > 0.0);
        Beside {
            value,
            times_static: value.zip(base).map(|(value, base)| value / base),
        }
    };
    let ttft = |of: fn(&Statistics) -> f64| quantity(&move |r| r.summary.ttft_ms.as_ref().map(of));
    let e2el = |of: fn(&Statistics) -> f64| quantity(&move |r| r.summary.e2el_ms.as_ref().map(of));
    PolicyCell {
        setting: result.cell.setting(),
        idle_row_steps_percent: result.mean(|r| r.summary.idle_percent()),
        output_throughput: quantity(&|r| Some(r.summary.output_throughput)),
        ttft_ms_mean: ttft(|s| s.mean),
        ttft_ms_p95: ttft(|s| s.p95),
        e2el_ms_mean: e2el(|s| s.mean),
        e2el_ms_p95: e2el(|s| s.p95),
    }
}
