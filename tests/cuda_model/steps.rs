//! Hand-made steps: what the scheduler does, in the few lines that a test needs.

use std::collections::BTreeSet;

use batchlab::kv::{Lease, PagePool};
use batchlab::plan::{RowPlan, StepPlan};
use batchlab::runner::Runner;
use batchlab::sampling::Sampling;

/// One row: its left padding, its prompt and what was generated.
struct Row {
    tokens: Vec<u32>,
    /// Padding in front of the prompt, part of `tokens`.
    pad: usize,
    prompt_end: usize,
    /// Tokens that are in the KV cache.
    fed: usize,
    pages: Vec<u32>,
    sampling: Sampling,
}

impl Row {
    /// Every token seen, once, where there is a penalty.
    fn penalised(&self) -> Vec<u32> {
        if self.sampling.repetition_penalty == 1.0 {
            return Vec::new();
        }
        let seen: BTreeSet<u32> = self.tokens[self.pad..].iter().copied().collect();
        seen.into_iter().collect()
    }
}

/// Rows that run together.
pub struct Batch {
    rows: Vec<Row>,
    _lease: Lease,
}

/// What a run left behind.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Run {
    /// What every row generated.
    pub tokens: Vec<Vec<u32>>,
    /// `[B, V]` of every step.
    pub logits: Vec<Vec<f32>>,
}

impl Batch {
    /// Rows with room for `generated` tokens each; padded to the longest prompt if asked. Pages are
    /// dealt in turn, so that no row's lie side by side.
    pub fn new(runner: &dyn Runner, prompts: &[Vec<u32>], padded: bool, generated: usize) -> Self {
        let longest = prompts.iter().map(Vec::len).max().unwrap();
        let pages_each = runner.kv_layout().pages_for(longest + generated);
        let pool = PagePool::new(runner.kv_pages());
        let lease = pool
            .lease(pages_each * prompts.len())
            .expect("the KV slab is too small");
        let row = |(index, prompt): (usize, &Vec<u32>)| {
            let pad = if padded { longest - prompt.len() } else { 0 };
            let mut tokens = vec![0; pad];
            tokens.extend(prompt);
            Row {
                prompt_end: tokens.len(),
                tokens,
                pad,
                fed: 0,
                pages: lease
                    .pages()
                    .iter()
                    .copied()
                    .skip(index)
                    .step_by(prompts.len())
                    .collect(),
                sampling: Sampling::GREEDY,
            }
        };
        Self {
            rows: prompts.iter().enumerate().map(row).collect(),
            _lease: lease,
        }
    }

    pub fn sampled(mut self, sampling: impl Fn(usize) -> Sampling) -> Self {
        for (index, row) in self.rows.iter_mut().enumerate() {
            row.sampling = sampling(index);
        }
        self
    }

    /// The next step: at most `chunk` tokens of every row.
    pub fn plan(&self, chunk: usize) -> StepPlan {
        let mut plan = StepPlan::default();
        for row in &self.rows {
            let end = row.tokens.len().min(row.fed.saturating_add(chunk));
            for i in row.fed..end {
                plan.token_ids.push(row.tokens[i]);
            }
            plan.rows.push(RowPlan {
                query_len: end - row.fed,
                kv_start: row.pad,
                kv_len: end,
                pages: row.pages.clone(),
                sampling: row.sampling,
                penalised: row.penalised(),
                sample_index: (row.tokens.len() - row.prompt_end) as u32,
                follows: None,
            });
        }
        plan
    }

    /// Takes the step's tokens: a row whose prompt is not yet through drops its own.
    fn advance(&mut self, plan: &StepPlan, next: &[u32]) {
        for ((row, planned), &token) in self.rows.iter_mut().zip(&plan.rows).zip(next) {
            row.fed = planned.kv_len;
            if row.fed == row.tokens.len() {
                row.tokens.push(token);
            }
        }
    }

    /// Steps until the longest row has generated for `steps` steps, prompts in chunks of `chunk`.
    pub fn run(mut self, runner: &mut dyn Runner, steps: usize, chunk: usize) -> Run {
        let mut logits = Vec::new();
        for _ in 0..steps {
            let plan = self.plan(chunk);
            let step = runner.execute(&plan).unwrap();
            self.advance(&plan, &step.tokens);
            logits.push(runner.logits().unwrap());
        }
        let generated = |row: &Row| row.tokens[row.prompt_end..].to_vec();
        Run {
            tokens: self.rows.iter().map(generated).collect(),
            logits,
        }
    }
}

/// Greedy, prompts in one piece.
pub fn greedy(runner: &mut dyn Runner, prompts: &[Vec<u32>], padded: bool, steps: usize) -> Run {
    Batch::new(runner, prompts, padded, steps).run(runner, steps, usize::MAX)
}
