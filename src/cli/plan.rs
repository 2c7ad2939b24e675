//! `batchlab plan`: what a model takes of a GPU's memory, before it is loaded.

use anyhow::Context;
use batchlab::Error;
use batchlab::model::ModelShape;
use batchlab::report::{MemoryInfo, size, sizes, verification, whole};
use batchlab::runner::{
    Chosen, DeviceChoice, Dtype, KvBudget, RunnerOptions, Target, choose, cpu, cuda,
};
use batchlab::sizing::{Largest, LimitedBy, Memory, Row, Sizing};
use serde_json::json;

use super::engine_args::{ModelArgs, bytes};
use super::memory::{nvml, open_measured};
use super::{at_least_one, print};

/// Size the KV cache, weights and scratch of a model, and find what fits into a GPU's memory.
///
/// Reads the model's config.json alone, which a folder may hold by itself. Llama, Mistral and Qwen2
/// can be sized too, and dummy:llama-7b, dummy:llama-3.1-8b, dummy:tinyllama-1.1b,
/// dummy:smollm2-135m, dummy:qwen2.5-0.5b.
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
    let shape = ModelShape::open(args.model.model.as_deref()).map_err(Error::from)?;
    let place = args.place()?;
    let sizing = Sizing {
        shape: &shape,
        target: place.target,
        dtype: args.model.dtype.unwrap_or(match place.target {
            Target::Cpu => Dtype::F32,
            Target::Cuda { .. } => Dtype::BF16,
        }),
        page_size: args.model.kv_block_size,
        input_len: args.input_len,
    };
    let plan = Plan {
        seq_len: args.seq_len.unwrap_or(shape.max_positions),
        sizing,
        memory: place.memory,
    };
    let rows = plan.rows(&args.batch_size)?;
    if let Some(why) = &place.no_gpu {
        eprintln!("no GPU to fit into ({why}); --gpu-memory 80GiB fits into that much");
    }
    if !args.json {
        print(&plan.text(&rows)?)?;
    }
    let verified = match args.verify {
        true => plan.verify(args, &rows)?,
        false => Vec::new(),
    };
    match args.json {
        true => print(&plan.json(&rows, &verified)?),
        false if args.verify => print(&plan.verified_text(&verified)),
        false => Ok(()),
    }
}

/// Where the model is to run.
struct Place {
    target: Target,
    memory: Option<Memory>,
    /// Why there is no memory to fit into.
    no_gpu: Option<String>,
}

impl PlanArgs {
    /// Sizes are a GPU's, unless a CPU was asked for or is what `--verify` will open.
    fn place(&self) -> Result<Place, Error> {
        let chosen = choose(self.model.device);
        let share = self.model.gpu_memory_utilization;
        let given = self.gpu_memory.map(|free_bytes| Memory {
            name: "--gpu-memory".into(),
            total_bytes: None,
            free_bytes,
            share,
        });
        let on_cpu = self.verify || self.model.device == DeviceChoice::Cpu;
        let (target, found) = match chosen.cuda {
            Some(ordinal) => {
                cuda::available(ordinal)?;
                let sms = cuda::multiprocessors(ordinal)?;
                (Target::Cuda { sms }, gpu_memory(&chosen, share))
            }
            None if on_cpu => (Target::Cpu, cpu_memory()),
            None => {
                let sms = Target::USUAL_SMS;
                (Target::Cuda { sms }, None)
            }
        };
        let memory = given.or(found);
        Ok(Place {
            target,
            no_gpu: match (&memory, chosen.cuda) {
                (Some(_), _) => None,
                (None, Some(_)) => Some("NVML does not tell its memory".into()),
                (None, None) => Some(chosen.why),
            },
            memory,
        })
    }
}

fn gpu_memory(chosen: &Chosen, share: f64) -> Option<Memory> {
    let nvml = nvml(chosen)?;
    let memory = nvml.memory()?;
    Some(Memory {
        name: nvml.info().name.unwrap_or_else(|| "the GPU".into()),
        total_bytes: Some(memory.total),
        free_bytes: memory.free,
        share,
    })
}

/// The CPU runner takes what it needs of what is free.
fn cpu_memory() -> Option<Memory> {
    Some(Memory {
        name: "the CPU".into(),
        total_bytes: None,
        free_bytes: cpu::available_memory()?,
        share: 1.0,
    })
}

struct Plan<'a> {
    sizing: Sizing<'a>,
    seq_len: usize,
    memory: Option<Memory>,
}

impl Plan<'_> {
    fn rows(&self, batch_sizes: &[usize]) -> Result<Vec<Row>, Error> {
        let row = |&batch| self.sizing.row(batch, self.seq_len, self.memory.as_ref());
        batch_sizes.iter().map(row).collect()
    }

    fn largest_batch(&self) -> Option<Largest> {
        let memory = self.memory.as_ref()?;
        self.sizing.largest_batch(self.seq_len, memory)
    }

    /// K and V of one sequence, in bytes: as the formula has it, and in whole pages.
    fn sequence_bytes(&self) -> Result<(u64, u64), Error> {
        let one = self.sizing.row(1, self.seq_len, None)?;
        Ok((one.kv_bytes, one.kv_paged_bytes))
    }

    fn text(&self, rows: &[Row]) -> Result<String, Error> {
        let Sizing { shape, dtype, .. } = self.sizing;
        let layout = self.sizing.layout();
        let (sequence, paged) = self.sequence_bytes()?;
        let mut lines = vec![
            format!(
                "{}: {} parameters, {} layers, {} KV heads of {}, context {} tokens",
                shape.name,
                whole(shape.parameters),
                shape.layers,
                shape.kv_heads,
                shape.head_dim,
                whole(shape.max_positions as u64),
            ),
            format!(
                "KV cache in {dtype}: 2 × {} layers × {} heads × {} × {} B = {} B a token",
                shape.layers,
                shape.kv_heads,
                shape.head_dim,
                dtype.bytes(),
                whole(layout.bytes_per_token() as u64),
            ),
            format!(
                "a sequence of {} tokens: {} B ({}), in pages of {} tokens {}",
                whole(self.seq_len as u64),
                whole(sequence),
                size(sequence),
                layout.page_size,
                size(paged),
            ),
        ];
        lines.extend(self.memory.as_ref().map(memory_line));
        lines.push(sizes(rows));
        let reserve = self.sizing.target.reserve();
        if reserve > 0 {
            lines.push(format!(
                "together: with {} left to the driver",
                size(reserve)
            ));
        }
        if shape.spec.is_none() {
            lines.push(
                "scratch: not known before this family runs, so not in the sum; what fits is an upper bound"
                    .into(),
            );
        }
        if self.memory.is_some() {
            lines.push(self.largest_batch_line());
        }
        Ok(lines.join("\n"))
    }

    fn largest_batch_line(&self) -> String {
        let len = whole(self.seq_len as u64);
        match self.largest_batch() {
            None => format!("largest batch at {len} tokens: none fits"),
            Some(largest) => {
                let why = match largest.limited_by {
                    LimitedBy::Memory => "",
                    LimitedBy::Model | LimitedBy::Runner => {
                        " (a step cannot be larger; lower --input-len for more)"
                    }
                };
                let batch = whole(largest.value as u64);
                format!("largest batch at {len} tokens: {batch}{why}")
            }
        }
    }

    /// Opens the model for each batch size in turn.
    fn verify(&self, args: &PlanArgs, rows: &[Row]) -> Result<Vec<(usize, MemoryInfo)>, Error> {
        let model = args.model.model()?;
        let open = |row: &Row| {
            let options = RunnerOptions {
                kv: KvBudget::Bytes(row.kv_paged_bytes),
                ..self.sizing.runner_options(row.batch_size, row.seq_len)
            };
            let (_runner, memory) = open_measured(args.model.device, &model, &options)?;
            Ok((row.batch_size, memory))
        };
        rows.iter().map(open).collect()
    }

    fn verified_text(&self, verified: &[(usize, MemoryInfo)]) -> String {
        let mut text = format!("\nopened\n{}", verification(verified));
        for (batch, memory) in verified {
            let used = memory
                .gpu_memory_used_before_bytes
                .zip(memory.gpu_memory_used_after_bytes);
            if let Some((before, after)) = used {
                text += &format!(
                    "\nbatch {batch}: NVML counted {} in use before and {} after, the CUDA context among it",
                    size(before),
                    size(after)
                );
            }
        }
        text
    }

    fn json(&self, rows: &[Row], verified: &[(usize, MemoryInfo)]) -> anyhow::Result<String> {
        let Sizing { shape, dtype, .. } = self.sizing;
        let layout = self.sizing.layout();
        let (sequence, paged) = self.sequence_bytes()?;
        let verified: Vec<_> = verified
            .iter()
            .map(|(batch_size, memory)| json!({"batch_size": batch_size, "memory": memory}))
            .collect();
        let json = json!({
            "batchlab_version": env!("CARGO_PKG_VERSION"),
            "model": shape.name,
            "parameters": shape.parameters,
            "layers": shape.layers,
            "kv_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "max_positions": shape.max_positions,
            "dtype": dtype.to_string(),
            "kv_block_size": layout.page_size,
            "seq_len": self.seq_len,
            "kv_bytes_per_token": layout.bytes_per_token(),
            "kv_bytes_per_sequence": sequence,
            "kv_paged_bytes_per_sequence": paged,
            "driver_reserve_bytes": self.sizing.target.reserve(),
            "memory": self.memory,
            "largest_batch": self.largest_batch(),
            "batch_sizes": rows,
            "verified": verified,
        });
        serde_json::to_string_pretty(&json).context("the plan as JSON")
    }
}

fn memory_line(memory: &Memory) -> String {
    let free = size(memory.free_bytes);
    let total = memory
        .total_bytes
        .map_or(String::new(), |total| format!(" of {}", size(total)));
    let may = match memory.share {
        1.0 => String::new(),
        share => format!(", of which {share} may be taken"),
    };
    format!("memory: {free}{total} free ({}){may}", memory.name)
}
