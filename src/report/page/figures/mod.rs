//! Every picture of a report, each made from the analysis or the records.

mod batch;
mod gpu;
mod kernels;
mod load;
mod memory;
mod policies;
mod scaling;
mod timeline;
mod tradeoff;
mod waiting;
mod waste;

use super::figure::Section;
use crate::Error;
use crate::analysis::{Analysis, Estimate};
use crate::number::short;
use crate::report::SavedSweep;
use crate::report::chart::ChartError;
use crate::sweep::{Measured, PolicyKind};

pub use kernels::KernelTimes;

/// Pictures of one kind: more make the page slow to open, and are not looked at.
const MOST_FIGURES: usize = 12;
/// Lines of one picture: more cannot be told apart.
const MOST_SERIES: usize = 8;
/// Cells that get a timeline or GPU panels of their own.
const MOST_CHOSEN: usize = 6;

/// All sections that the sweep has data for.
pub fn sections(
    saved: &SavedSweep,
    analysis: &Analysis<'_>,
    kernels: Option<&KernelTimes>,
) -> Result<Vec<Section>, Error> {
    let mut scaling = scaling::draw(analysis).map_err(failed)?;
    if let Some(kernels) = kernels {
        scaling.extend(kernels.draw().map_err(failed)?);
    }
    let chosen = chosen(analysis);
    let all = [
        Section {
            title: "Trade-off: latency against throughput",
            intro: "Every mark is one setting, labelled by its wait window, or by its load where it stands under several. The frontier joins those that no other setting beats in both; the knee is where more throughput begins to cost more latency than it did on average.",
            drawn: tradeoff::draw(analysis).map_err(failed)?,
        },
        Section {
            title: "The policies under the same load",
            intro: "Static and dynamic batches run until their slowest row ends; continuous batching lets rows join and leave between steps.",
            drawn: policies::draw(analysis).map_err(failed)?,
        },
        Section {
            title: "What the batch size does",
            intro: "One line for each policy and window.",
            drawn: batch::draw(analysis).map_err(failed)?,
        },
        Section {
            title: "How much more work costs",
            intro: "B times the rows are B times the work. Where the lines stay below the dashed one, the device swallows the rest.",
            drawn: scaling.into(),
        },
        Section {
            title: "Where the time goes",
            intro: "Mean latency of a request: waiting in the queue, then prefill and decode, which are service.",
            drawn: waiting::draw(analysis).map_err(failed)?,
        },
        Section {
            title: "From few requests to too many",
            intro: "The same settings under growing loads. Static batching waits for a full batch when requests are few; beyond what a setting can serve, queues grow for as long as the load lasts.",
            drawn: load::draw(analysis).map_err(failed)?,
        },
        Section {
            title: "Requests over time",
            intro: "The first requests of a run as they were recorded, one line a request, and then one line a row in which they ran. Idle is a row that has finished and waits for the slowest of its batch.",
            drawn: timeline::draw(&chosen).map_err(failed)?.into(),
        },
        Section {
            title: "Waste",
            intro: "Padded positions are computed and masked; idle row-steps are computed for rows that had finished.",
            drawn: waste::draw(analysis).map_err(failed)?.into(),
        },
        Section {
            title: "Memory and KV cache",
            intro: "Pages in use at the fullest step, beside 2 × batch × layers × KV heads × length × head width × bytes.",
            drawn: memory::draw(&saved.header, analysis)
                .map_err(failed)?
                .into(),
        },
        Section {
            title: "The GPU over time",
            intro: "NVML's readings while a cell ran. GPU utilisation is the share of time in which any kernel ran; SM, tensor and DRAM activity (GPM, Hopper and newer) say how full the GPU was.",
            drawn: gpu::draw(saved, &chosen)?.into(),
        },
    ];
    Ok(all
        .into_iter()
        .filter(|s| !s.drawn.figures.is_empty())
        .collect())
}

fn failed(error: ChartError) -> Error {
    Error::Results(format!(
        "{error}; this is a bug of batchlab, please report it"
    ))
}

/// Cells worth a close look, in the order of the sweep: the ends of the ladder, what wasted most, the
/// first continuous one, what was picked.
fn chosen<'a>(analysis: &Analysis<'a>) -> Vec<&'a Measured> {
    let ladder = &analysis.ladder;
    let ends = ladder.first().into_iter().chain(ladder.last()).copied();
    let picks = analysis
        .advice
        .iter()
        .filter_map(|a| Some(a.pick.as_ref()?.chosen.cell));
    let idle = analysis
        .idle
        .iter()
        .max_by(|a, b| a.percent().total_cmp(&b.percent()));
    let slowest = analysis
        .cells
        .iter()
        .filter(|c| c.result.cell.load.is_open())
        .max_by(|a, b| {
            let latency = |c: &Measured| c.result.mean(|r| Some(r.summary.e2el_ms.as_ref()?.mean));
            latency(a)
                .unwrap_or(0.0)
                .total_cmp(&latency(b).unwrap_or(0.0))
        });
    let mut chosen: Vec<&Measured> = Vec::new();
    let mut continuous = analysis.cells.iter();
    let continuous = continuous.find(|c| c.result.cell.policy == PolicyKind::Continuous);
    let all = ends.chain(idle.map(|i| i.cell)).chain(continuous);
    let all = all.chain(picks).chain(slowest);
    for cell in all.chain(analysis.cells.first()) {
        if chosen.len() < MOST_CHOSEN && !chosen.iter().any(|c| std::ptr::eq(*c, cell)) {
            chosen.push(cell);
        }
    }
    chosen.sort_by_key(|c| c.result.index);
    chosen
}

fn mean_and_half(estimate: &Estimate) -> [String; 2] {
    [short(Some(estimate.mean)), short(estimate.half_width())]
}
