//! What `batchlab plan` says.

use serde_json::{Value, json};

use super::json::MemoryInfo;
use super::memory::{sizes, verification};
use crate::Error;
use crate::number::{size, whole};
use crate::sizing::{Largest, LimitedBy, Memory, Row, Sizing};

/// What was planned.
pub struct Plan<'a> {
    pub sizing: Sizing<'a>,
    pub seq_len: usize,
    pub memory: Option<Memory>,
    /// One a batch size.
    pub rows: Vec<Row>,
}

/// A batch size that was opened, and what it took.
pub type Verified = (usize, MemoryInfo);

impl Plan<'_> {
    fn largest_batch(&self) -> Option<Largest> {
        let memory = self.memory.as_ref()?;
        self.sizing.largest_batch(self.seq_len, memory)
    }

    /// K and V of one sequence, in bytes: as the formula has it, and in whole pages.
    fn sequence_bytes(&self) -> Result<(u64, u64), Error> {
        let one = self.sizing.row(1, self.seq_len, None)?;
        Ok((one.kv_bytes, one.kv_paged_bytes))
    }

    /// For the terminal.
    pub fn text(&self) -> Result<String, Error> {
        let spec = self.sizing.spec;
        let (layout, kv_dtype) = (self.sizing.layout(), self.sizing.kv_dtype());
        let (sequence, paged) = self.sequence_bytes()?;
        let mut lines = vec![
            format!(
                "{}: {} parameters, {} layers, {} KV heads of {}, context {} tokens",
                spec.name,
                whole(spec.parameters()),
                spec.layers,
                spec.kv_heads,
                spec.head_dim,
                whole(spec.max_positions as u64),
            ),
            format!(
                "KV cache in {kv_dtype}: 2 × {} layers × {} heads × {} × {} B = {} B a token",
                spec.layers,
                spec.kv_heads,
                spec.head_dim,
                kv_dtype.bytes(),
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
        lines.push(sizes(&self.rows));
        let reserve = self.sizing.target.reserve();
        if reserve > 0 {
            lines.push(format!(
                "together: with {} left to the driver",
                size(reserve)
            ));
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

    /// What `--verify` found, for the terminal.
    pub fn verified_text(verified: &[Verified]) -> String {
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

    pub fn json(&self, verified: &[Verified]) -> Result<Value, Error> {
        let Sizing { spec, dtype, .. } = self.sizing;
        let layout = self.sizing.layout();
        let (sequence, paged) = self.sequence_bytes()?;
        let verified: Vec<_> = verified
            .iter()
            .map(|(batch_size, memory)| json!({"batch_size": batch_size, "memory": memory}))
            .collect();
        Ok(json!({
            "batchlab_version": env!("CARGO_PKG_VERSION"),
            "model": spec.name,
            "parameters": spec.parameters(),
            "layers": spec.layers,
            "kv_heads": spec.kv_heads,
            "head_dim": spec.head_dim,
            "max_positions": spec.max_positions,
            "dtype": dtype.to_string(),
            "kv_block_size": layout.page_size,
            "seq_len": self.seq_len,
            "kv_bytes_per_token": layout.bytes_per_token(),
            "kv_bytes_per_sequence": sequence,
            "kv_paged_bytes_per_sequence": paged,
            "driver_reserve_bytes": self.sizing.target.reserve(),
            "memory": self.memory,
            "largest_batch": self.largest_batch(),
            "batch_sizes": self.rows,
            "verified": verified,
        }))
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
