//! `batchlab report`: the report of saved results, made again, or two results compared.

use std::path::{Path, PathBuf};

use batchlab::analysis::{Analysis, Context, compare};
use batchlab::report::{
    KernelTimes, SavedSweep, comparison_of_sweeps, expectations, picks, policies, scaling, tables,
    write_page,
};
use batchlab::sweep::CellResult;

use super::advice_args::AdviceArgs;
use super::print;

/// Make the report of a sweep's results again, or compare two sweeps.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// The --output of a sweep
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The --output of another sweep: prints both side by side and writes nothing
    #[arg(value_name = "DIR", conflicts_with_all = ["goodput", "objective"])]
    other: Option<PathBuf>,
    /// What `cargo bench --bench kernels -- --output FILE` wrote: adds the kernels' curves
    #[arg(long, value_name = "FILE", conflicts_with = "other")]
    kernels: Option<PathBuf>,
    /// Where report.html and pictures/ go [default: DIR]
    #[arg(long, value_name = "DIR", conflicts_with = "other")]
    output: Option<PathBuf>,
    #[command(flatten)]
    advice: AdviceArgs,
}

pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let saved = SavedSweep::open(&args.folder)?;
    if let Some(other) = &args.other {
        let other = SavedSweep::open(other)?;
        let comparison = compare(&saved.cells, &other.cells);
        return print(&comparison_of_sweeps(&saved, &other, &comparison));
    }
    let kernels = args.kernels.as_deref().map(KernelTimes::read).transpose()?;
    let results: Vec<CellResult> = saved.cells.iter().map(|c| c.result.clone()).collect();
    print(&tables(&results))?;
    let output = args.output.as_deref().unwrap_or(&args.folder);
    finish(&saved, &args.advice, kernels.as_ref(), output)
}

/// Ends a sweep: writes the report into its folder and prints what it concludes.
pub fn conclude(folder: &Path, advice: &AdviceArgs) -> anyhow::Result<()> {
    finish(&SavedSweep::open(folder)?, advice, None, folder)
}

fn finish(
    saved: &SavedSweep,
    advice: &AdviceArgs,
    kernels: Option<&KernelTimes>,
    output: &Path,
) -> anyhow::Result<()> {
    let context = Context {
        kv_pool_bytes: saved.header.kv.map_or(0, |kv| kv.predicted_bytes),
        samples: &|index| saved.samples(index),
        own: advice.own(),
    };
    let analysis = Analysis::of(&saved.cells, &context)?;
    let page = write_page(saved, &analysis, kernels, output)?;
    print(&format!(
        "{}{}\n{}\n{}\nReport: {}",
        policies(&analysis.policies),
        scaling(&analysis.scaling),
        expectations(&analysis.verdicts),
        picks(&saved.header, &analysis.advice),
        page.display()
    ))
}
