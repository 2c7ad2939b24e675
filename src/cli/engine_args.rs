//! What every subcommand that runs a model asks: which model, on which device, in what memory.

use batchlab::Error;
use batchlab::model::Model;
use batchlab::runner::{
    self, CublasLt, DeviceChoice, Dtype, KvBudget, Limits, Runner, RunnerOptions,
};

/// Of a GPU's free memory.
const USUAL_SHARE: f64 = 0.9;
const USUAL_BLOCK: usize = 32;

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Model and device")]
pub struct ModelArgs {
    /// A folder in Hugging Face layout (GPT-2, Llama, Mistral or Qwen2), a hub id such as distilgpt2,
    /// or dummy:SHAPE for random weights of a real shape: distilgpt2, gpt2 (-medium, -large, -xl),
    /// llama-7b, llama-3.1-8b, tinyllama-1.1b, smollm2-135m, qwen2.5-0.5b; without it, the bundled
    /// model
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// auto, cpu, cuda or cuda:N; auto takes CUDA where a GPU, its driver and the kernels are there
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// f32, f16 or bf16: of the weights, and on CUDA of all else; on a CPU all else is f32, and f16
    /// not possible. Without it bf16 on CUDA, on a CPU f32, or bf16 where the checkpoint is
    #[arg(long, value_name = "DTYPE")]
    pub dtype: Option<Dtype>,
    /// Tokens in a page of the KV cache; a power of two
    #[arg(long, default_value_t = USUAL_BLOCK, value_name = "N", value_parser = block_size)]
    pub kv_block_size: usize,
    /// Share of the GPU's free memory that the model and the KV cache may take
    #[arg(long, default_value_t = USUAL_SHARE, value_name = "SHARE", value_parser = share)]
    pub gpu_memory_utilization: f64,
}

impl ModelArgs {
    pub fn model(&self) -> Result<Model, Error> {
        Ok(Model::open(self.model.as_deref())?)
    }
}

#[derive(Debug, Clone, clap::Args)]
pub struct EngineArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Memory of the KV cache, such as 512MiB or 4GiB
    #[arg(long, value_name = "BYTES", value_parser = bytes, conflicts_with = "gpu_memory_utilization")]
    kv_cache_memory: Option<u64>,
    /// auto or off: whether cuBLASLt multiplies on a GPU where it is found and faster than the own
    /// kernels
    #[arg(long, default_value_t, value_name = "USE")]
    cublaslt: CublasLt,
}

impl EngineArgs {
    pub fn model(&self) -> Result<Model, Error> {
        self.model.model()
    }

    /// The options that were given and ask for something else than `other`.
    pub fn unlike(&self, other: &Self) -> Vec<&'static str> {
        let (model, others) = (&self.model, &other.model);
        let differs = [
            (
                "--device",
                model.device != DeviceChoice::Auto && model.device != others.device,
            ),
            (
                "--dtype",
                model.dtype.is_some() && model.dtype != others.dtype,
            ),
            (
                "--kv-block-size",
                model.kv_block_size != USUAL_BLOCK && model.kv_block_size != others.kv_block_size,
            ),
            (
                "--gpu-memory-utilization",
                model.gpu_memory_utilization != USUAL_SHARE
                    && model.gpu_memory_utilization != others.gpu_memory_utilization,
            ),
            (
                "--kv-cache-memory",
                self.kv_cache_memory.is_some() && self.kv_cache_memory != other.kv_cache_memory,
            ),
            (
                "--cublaslt",
                self.cublaslt != CublasLt::default() && self.cublaslt != other.cublaslt,
            ),
        ];
        let names = differs.into_iter().filter(|(_, differs)| *differs);
        names.map(|(name, _)| name).collect()
    }

    /// Opens the runner and says on stderr which device it is and why.
    pub fn runner(&self, model: &Model, limits: Limits) -> Result<Box<dyn Runner>, Error> {
        let (runner, device) =
            runner::open(self.model.device, model, &self.runner_options(limits))?;
        eprintln!("{device}");
        Ok(runner)
    }

    /// Options that ask for the same model on the same device, whatever `auto` found.
    pub fn as_options(&self, runner: &dyn Runner) -> Vec<String> {
        let device = match (self.model.device, runner.pci_bus_id()) {
            (DeviceChoice::Cuda { ordinal }, _) => format!("cuda:{ordinal}"),
            (_, Some(_)) => "cuda".into(),
            (_, None) => "cpu".into(),
        };
        let mut options = vec!["--device".into(), device];
        if let Some(model) = &self.model.model {
            options.extend(["--model".into(), model.clone()]);
        }
        if let Some(dtype) = self.model.dtype {
            options.extend(["--dtype".into(), dtype.to_string()]);
        }
        let page = runner.kv_layout().page_size.to_string();
        options.extend(["--kv-block-size".into(), page]);
        if let Some(bytes) = self.kv_cache_memory {
            options.extend(["--kv-cache-memory".into(), bytes.to_string()]);
        }
        if self.cublaslt != CublasLt::default() {
            options.extend(["--cublaslt".into(), self.cublaslt.to_string()]);
        }
        let share = self.model.gpu_memory_utilization;
        if share != USUAL_SHARE {
            options.extend(["--gpu-memory-utilization".into(), share.to_string()]);
        }
        options
    }

    pub fn runner_options(&self, limits: Limits) -> RunnerOptions {
        RunnerOptions {
            dtype: self.model.dtype,
            page_size: self.model.kv_block_size,
            kv: match self.kv_cache_memory {
                Some(bytes) => KvBudget::Bytes(bytes),
                None => KvBudget::Utilization(self.model.gpu_memory_utilization),
            },
            limits,
            cublaslt: self.cublaslt,
        }
    }
}

fn block_size(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if n.is_power_of_two() && (8..=1024).contains(&n) => Ok(n),
        _ => Err("give a power of two from 8 to 1024".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("give a number above 0 and up to 1".into()),
    }
}

/// Bytes with an optional unit: powers of 1024 for KiB to TiB, of 1000 for KB to TB.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "give a size above 0, such as 512MiB, 4GiB or 1073741824".to_string();
    let at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tib" => 1 << 40,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let bytes = number * scale as f64;
    match (1.0..1e18).contains(&bytes) {
        true => Ok(bytes as u64),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("4GiB"), Ok(4 << 30));
        assert_eq!(bytes("1.5 mib"), Ok(3 << 19));
        assert_eq!(bytes("2GB"), Ok(2_000_000_000));
        assert_eq!(bytes("123"), Ok(123));
        for bad in ["", "0", "-1GiB", "nan", "inf", "4PB", "GiB", "1e30"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
