//! How much memory a model takes at a batch size and a context, before anything of it is loaded, and
//! the most that fits.

use serde::Serialize;

use crate::Error;
use crate::kv::KvLayout;
use crate::model::ModelSpec;
use crate::runner::{CublasLt, Dtype, Footprint, KvBudget, Limits, RunnerOptions, Target};

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Sizing<'a> {
    pub spec: &'a ModelSpec,
    pub target: Target,
    pub dtype: Dtype,
    /// P, positions in a KV page.
    pub page_size: usize,
    /// Prompt tokens of a row. The rows of a batch are prefilled in one step, which sizes the
    /// scratch. None: the whole context.
    pub input_len: Option<usize>,
}

/// The memory that everything must fit into.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Memory {
    /// Whose it is.
    pub name: String,
    pub total_bytes: Option<u64>,
    pub free_bytes: u64,
    /// The share of the free memory that may be taken.
    pub share: f64,
}

/// One batch size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub batch_size: usize,
    pub seq_len: usize,
    /// 2 · batch · layers · kv_heads · seq_len · head_dim · bytes of an element (day2 §4.2).
    pub kv_bytes: u64,
    /// The same in whole pages: what a runner allocates.
    pub kv_paged_bytes: u64,
    /// As the runner holds them.
    pub weights_bytes: u64,
    pub scratch_bytes: u64,
    /// Weights, scratch, KV pages and the driver's reserve.
    pub total_bytes: u64,
    /// The rest is about a [`Memory`] and none without one. Of the memory that may be taken.
    pub percent_of_memory: Option<f64>,
    pub fits: Option<bool>,
    /// None also where nothing fits.
    pub largest_context: Option<Largest>,
}

/// The largest number that fits, and what stands in the way of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Largest {
    pub value: usize,
    pub limited_by: LimitedBy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    Memory,
    /// The positions that the model was built for.
    Model,
    /// The sizes that the runner's steps can have.
    Runner,
}

impl Sizing<'_> {
    pub fn layout(&self) -> KvLayout {
        self.spec.kv_layout(self.page_size, self.kv_dtype().bytes())
    }

    /// Of keys and values.
    pub fn kv_dtype(&self) -> Dtype {
        self.target.kv_dtype(self.dtype)
    }

    /// The sizes of one batch.
    ///
    /// # Errors
    /// A batch or a context of 0, a context beyond the model's, and what no runner can hold.
    pub fn row(
        &self,
        batch_size: usize,
        seq_len: usize,
        memory: Option<&Memory>,
    ) -> Result<Row, Error> {
        self.check(batch_size, seq_len)?;
        let footprint = self.footprint(batch_size, seq_len)?;
        let total = footprint.total().saturating_add(self.target.reserve());
        let kv_bytes = product(self.layout().bytes_per_token() as u64, seq_len)?;
        Ok(Row {
            batch_size,
            seq_len,
            kv_bytes: product(kv_bytes, batch_size)?,
            kv_paged_bytes: footprint.kv,
            weights_bytes: footprint.weights,
            scratch_bytes: footprint.scratch,
            total_bytes: total,
            percent_of_memory: memory
                .map(|m| 100.0 * total as f64 / (m.free_bytes as f64 * m.share)),
            fits: memory.map(|m| self.fits(&footprint, m)),
            largest_context: memory.and_then(|m| self.largest_context(batch_size, m)),
        })
    }

    fn check(&self, batch_size: usize, seq_len: usize) -> Result<(), Error> {
        let usage = |message: String| Err(Error::Usage(message));
        let (most, context) = (Limits::MOST, self.spec.max_positions);
        if !(1..=most).contains(&batch_size) {
            return usage(format!("--batch-size is {batch_size}; use 1 to {most}"));
        }
        if !(1..=context).contains(&seq_len) {
            return usage(format!(
                "--seq-len is {seq_len}, but the context of {} is {context} tokens; use 1 to {context}",
                self.spec.name
            ));
        }
        match self.input_len {
            Some(input) if !(1..=seq_len).contains(&input) => usage(format!(
                "--input-len is {input}; use 1 to --seq-len, {seq_len}"
            )),
            _ => Ok(()),
        }
    }

    /// How a runner is opened for exactly this.
    pub fn runner_options(&self, batch_size: usize, seq_len: usize) -> RunnerOptions {
        let input = self.input_len.map_or(seq_len, |input| input.min(seq_len));
        RunnerOptions {
            dtype: Some(self.dtype),
            page_size: self.page_size,
            kv: KvBudget::Utilization(1.0),
            limits: Limits {
                max_rows: batch_size,
                max_tokens: batch_size.saturating_mul(input),
                max_kv_len: seq_len,
            },
            cublaslt: CublasLt::Auto,
        }
    }

    fn footprint(&self, batch_size: usize, seq_len: usize) -> Result<Footprint, Error> {
        let options = self.runner_options(batch_size, seq_len);
        Ok(self.target.footprint(self.spec, &options)?)
    }

    fn fits(&self, footprint: &Footprint, memory: &Memory) -> bool {
        footprint.free_needed(self.target.reserve(), memory.share) <= memory.free_bytes
    }

    /// The largest batch at this context.
    pub fn largest_batch(&self, seq_len: usize, memory: &Memory) -> Option<Largest> {
        let at = |batch| self.footprint(batch, seq_len);
        self.largest(at, (Limits::MOST, LimitedBy::Runner), memory)
    }

    /// The largest context at this batch size.
    fn largest_context(&self, batch_size: usize, memory: &Memory) -> Option<Largest> {
        let at = |len| self.footprint(batch_size, len);
        self.largest(at, (self.spec.max_positions, LimitedBy::Model), memory)
    }

    /// Halves the range 1 ..= most: whatever fits, so does everything smaller. None if 1 does not.
    fn largest(
        &self,
        footprint: impl Fn(usize) -> Result<Footprint, Error>,
        (most, at_most): (usize, LimitedBy),
        memory: &Memory,
    ) -> Option<Largest> {
        let fits = |n| footprint(n).is_ok_and(|f| self.fits(&f, memory));
        let (mut fitting, mut beyond) = (0, most + 1);
        while beyond - fitting > 1 {
            let middle = fitting + (beyond - fitting) / 2;
            match fits(middle) {
                true => fitting = middle,
                false => beyond = middle,
            }
        }
        let limited_by = match beyond {
            n if n > most => at_most,
            n if footprint(n).is_ok() => LimitedBy::Memory,
            _ => LimitedBy::Runner,
        };
        (fitting > 0).then_some(Largest {
            value: fitting,
            limited_by,
        })
    }
}

/// Checked: a batch may be anything.
fn product(bytes: u64, count: usize) -> Result<u64, Error> {
    bytes.checked_mul(count as u64).ok_or_else(|| {
        Error::Usage(format!(
            "{count} times {bytes} bytes is more than any memory; lower --batch-size or --seq-len"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: Target = Target::Cuda;

    fn spec(name: &str) -> ModelSpec {
        ModelSpec::open(Some(name)).unwrap()
    }

    fn sizing(spec: &ModelSpec, dtype: Dtype) -> Sizing<'_> {
        Sizing {
            spec,
            target: GPU,
            dtype,
            page_size: 32,
            input_len: None,
        }
    }

    fn memory(gib: u64, share: f64) -> Memory {
        Memory {
            name: "test".into(),
            total_bytes: None,
            free_bytes: gib << 30,
            share,
        }
    }

    #[test]
    fn day2_examples_to_the_byte() {
        let distilgpt2 = spec("dummy:distilgpt2");
        let row = sizing(&distilgpt2, Dtype::F32).row(4, 100, None).unwrap();
        assert_eq!(row.kv_bytes, 14_745_600);
        assert_eq!(row.kv_paged_bytes, 36_864 * 128 * 4);
        assert!(row.scratch_bytes > 0 && row.fits.is_none());
        let llama = spec("dummy:llama-7b");
        let row = sizing(&llama, Dtype::BF16).row(32, 2048, None).unwrap();
        assert_eq!(row.kv_bytes, 34_359_738_368);
        assert_eq!(row.kv_paged_bytes, row.kv_bytes);
        assert_eq!(row.weights_bytes, 2 * 6_738_415_616);
    }

    #[test]
    fn the_largest_is_the_last_that_fits() {
        let llama = spec("dummy:llama-7b");
        let sizing = Sizing {
            input_len: Some(1),
            ..sizing(&llama, Dtype::BF16)
        };
        // 80 GiB less 13,476,831,232 B of weights and 256 MiB, over 1 GiB a sequence: 67.2. The
        // scratch of single tokens is below a tenth of a GiB.
        let memory = memory(80, 1.0);
        let batch = sizing.largest_batch(2048, &memory).unwrap();
        assert_eq!((batch.value, batch.limited_by), (67, LimitedBy::Memory));
        assert_eq!(
            sizing.row(67, 2048, Some(&memory)).unwrap().fits,
            Some(true)
        );
        let row = sizing.row(68, 2048, Some(&memory)).unwrap();
        assert_eq!(row.fits, Some(false));
        // At 68 rows one page less: 67.2 · 64 pages / 68 = 63.
        let context = row.largest_context.unwrap();
        assert_eq!(
            (context.value, context.limited_by),
            (63 * 32, LimitedBy::Memory)
        );
        let one = sizing.row(1, 100, Some(&memory)).unwrap();
        let context = one.largest_context.unwrap();
        assert_eq!(
            (context.value, context.limited_by),
            (2048, LimitedBy::Model)
        );
    }

    #[test]
    fn what_fits_is_what_the_cuda_runner_accepts() {
        let gpt2 = spec("dummy:gpt2");
        let sizing = sizing(&gpt2, Dtype::BF16);
        let memory = memory(4, 0.9);
        let largest = sizing.largest_batch(1024, &memory).unwrap().value;
        let needed = |batch| {
            let footprint = sizing.footprint(batch, 1024).unwrap();
            footprint.free_needed(GPU.reserve(), 0.9)
        };
        assert!(needed(largest) <= 4 << 30 && needed(largest + 1) > 4 << 30);
    }

    #[test]
    fn nothing_fits_in_less_than_the_weights() {
        let llama = spec("dummy:llama-7b");
        let sizing = sizing(&llama, Dtype::BF16);
        assert_eq!(sizing.largest_batch(1, &memory(8, 1.0)), None);
        let row = sizing.row(1, 1, Some(&memory(8, 1.0))).unwrap();
        assert_eq!((row.fits, row.largest_context), (Some(false), None));
    }

    #[test]
    fn steps_that_no_runner_has_limit_the_batch() {
        let bundled = ModelSpec::open(None).unwrap();
        let sizing = sizing(&bundled, Dtype::BF16);
        let batch = sizing.largest_batch(512, &memory(1 << 20, 1.0)).unwrap();
        assert_eq!(
            (batch.value, batch.limited_by),
            (1 << 15, LimitedBy::Runner)
        );
    }

    #[test]
    fn impossible_sizes_are_named() {
        for (model, batch, len, input, names) in [
            (
                "dummy:gpt2",
                0,
                1,
                None,
                "--batch-size is 0; use 1 to 16777216",
            ),
            (
                "dummy:gpt2",
                10_usize.pow(12),
                1,
                None,
                "--batch-size is 1000000000000",
            ),
            ("dummy:gpt2", 1, 0, None, "--seq-len is 0"),
            (
                "dummy:gpt2",
                1,
                1025,
                None,
                "--seq-len is 1025, but the context of dummy:gpt2 is 1024",
            ),
            ("dummy:gpt2", 1 << 24, 1024, None, "cannot be"),
            (
                "dummy:gpt2",
                1,
                100,
                Some(101),
                "--input-len is 101; use 1 to --seq-len, 100",
            ),
            ("dummy:gpt2", 1, 100, Some(0), "--input-len is 0"),
        ] {
            let spec = spec(model);
            let sizing = Sizing {
                input_len: input,
                ..sizing(&spec, Dtype::F32)
            };
            let error = sizing.row(batch, len, None).unwrap_err().to_string();
            assert!(error.contains(names), "{error}");
        }
        let mut absurd = spec("dummy:llama-3.1-8b");
        absurd.max_positions = Limits::MOST;
        absurd.kv_heads = 1 << 16;
        absurd.layers = 1 << 10;
        let absurd = Sizing {
            input_len: Some(1),
            ..sizing(&absurd, Dtype::F32)
        };
        let error = absurd.row(1 << 24, 1 << 24, None);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("more than any memory")
        );
    }
}
