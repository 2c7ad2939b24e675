//! `batchlab plan`: what a model takes of a GPU's memory, before it is loaded.

use anyhow::Context;
use batchlab::Error;
use batchlab::model::ModelSpec;
use batchlab::report::{Plan, Verified};
use batchlab::runner::{KvBudget, RunnerOptions};
use batchlab::sizing::{Row, Sizing};

use super::engine_args::{ModelArgs, bytes};
use super::memory::{Place, Wanted, open_measured};
use super::{at_least_one, print};

/// Size the KV cache, weights and scratch of a model, and find what fits into a GPU's memory.
///
/// Reads the model's config.json alone, which a folder may hold by itself.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// Sequences that run together; each gets a line
    #[arg(long, default_value = "1,4,8", value_delimiter = ',', value_name = "N,…", value_parser = at_least_one)]
    batch_size: Vec<usize>,
    /// Tokens of a sequence, prompt and output [default: the model's longest context]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    seq_len: Option<usize>,
    /// Prompt tokens of a sequence: a batch is prefilled in one step, which sizes the scratch
    /// [default: all of --seq-len]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    input_len: Option<usize>,
    /// Free memory to fit into, such as 80GiB [default: this GPU's]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    gpu_memory: Option<u64>,
    /// Open the model with exactly these sizes too, and show what was allocated
    #[arg(long)]
    verify: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let spec = ModelSpec::open(args.model.model.as_deref()).map_err(Error::from)?;
    let place = Place::find(&Wanted {
        device: args.model.device,
        here: args.verify,
        free_bytes: args.gpu_memory,
        share: args.model.gpu_memory_utilization,
    })?;
    let plan = args.plan(&spec, &place)?;
    if let Some(why) = &place.no_memory {
        eprintln!("sizes without a fit ({why}); give --gpu-memory, such as 80GiB");
    }
    if !args.json {
        print(&plan.text()?)?;
    }
    let verified = match args.verify {
        true => args.open(&plan)?,
        false => Vec::new(),
    };
    match args.json {
        true => {
            let json = serde_json::to_string_pretty(&plan.json(&verified)?);
            print(&json.context("the plan as JSON")?)
        }
        false if args.verify => print(&Plan::verified_text(&verified)),
        false => Ok(()),
    }
}

impl PlanArgs {
    fn plan<'a>(&self, spec: &'a ModelSpec, place: &Place) -> Result<Plan<'a>, Error> {
        let sizing = Sizing {
            spec,
            target: place.target,
            dtype: (self.model.dtype).unwrap_or_else(|| place.target.usual_dtype(spec)),
            page_size: self.model.kv_block_size,
            input_len: self.input_len,
        };
        let seq_len = self.seq_len.unwrap_or(spec.max_positions);
        let row = |&batch| sizing.row(batch, seq_len, place.memory.as_ref());
        Ok(Plan {
            rows: self.batch_size.iter().map(row).collect::<Result<_, _>>()?,
            sizing,
            seq_len,
            memory: place.memory.clone(),
        })
    }

    /// Opens the model for each batch size in turn.
    fn open(&self, plan: &Plan<'_>) -> Result<Vec<Verified>, Error> {
        let model = self.model.model()?;
        let open = |row: &Row| {
            let options = RunnerOptions {
                kv: KvBudget::Bytes(row.kv_paged_bytes),
                ..plan.sizing.runner_options(row.batch_size, row.seq_len)
            };
            let (_runner, memory) = open_measured(self.model.device, &model, &options)?;
            Ok((row.batch_size, memory))
        };
        plan.rows.iter().map(open).collect()
    }
}
