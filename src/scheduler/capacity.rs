//! What a step, a row and the pool may hold, and which requests could never run in them.

use super::Scheduler;
use super::sequence::kv_positions;
use crate::batching::Batching;
use crate::request::Request;

/// What one step and one row may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub max_rows: usize,
    pub max_tokens: usize,
    pub max_kv_len: usize,
    /// The longest context of the model.
    pub max_positions: usize,
}

/// Why a request can never run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    #[error("max_new_tokens is 0; ask for at least one token")]
    NoOutput,
    #[error(
        "prompt {prompt} + output {output} tokens exceed the model's context of {max_positions}; \
         shorten the prompt or the output"
    )]
    Context {
        prompt: usize,
        output: usize,
        max_positions: usize,
    },
    #[error(
        "the request needs {needed} KV pages, the whole pool has {total} (pages of {page_size} \
         tokens); raise --kv-cache-memory or --gpu-memory-utilization"
    )]
    KvPool {
        needed: usize,
        total: usize,
        page_size: usize,
    },
    #[error("the request needs {needed} {what}, the runner was opened for {limit}")]
    Runner {
        what: &'static str,
        needed: usize,
        limit: usize,
    },
}

impl Scheduler {
    /// Refuses what could not run even alone.
    pub fn check(&self, request: &Request) -> Result<(), Refusal> {
        let (prompt, output) = (request.prompt.len(), request.max_new_tokens);
        if prompt == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        if output == 0 {
            return Err(Refusal::NoOutput);
        }
        // Compared without adding: max_new_tokens may be anything.
        if prompt > self.capacity.max_positions || output > self.capacity.max_positions - prompt {
            return Err(Refusal::Context {
                prompt,
                output,
                max_positions: self.capacity.max_positions,
            });
        }
        let kv_len = kv_positions(request, 0);
        let over = |what, needed, limit| match needed > limit {
            true => Err(Refusal::Runner {
                what,
                needed,
                limit,
            }),
            false => Ok(()),
        };
        // Elsewhere a prompt goes on in the next step.
        if self.batching == Batching::RequestLevel {
            over("prompt tokens in a step", prompt, self.capacity.max_tokens)?;
        }
        over("KV positions", kv_len, self.capacity.max_kv_len)?;
        match self.layout.pages_for(kv_len) {
            needed if needed > self.pool.total() => Err(Refusal::KvPool {
                needed,
                total: self.pool.total(),
                page_size: self.layout.page_size,
            }),
            _ => Ok(()),
        }
    }
}
