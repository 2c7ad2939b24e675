//! A runner with no tensors on a clock that does not tick: policies and scheduling can be tested
//! to the millisecond without sleeping.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use batchlab::batching::Policy;
use batchlab::clock::{Clock, ManualClock};
use batchlab::engine::{Engine, EngineConfig};
use batchlab::kv::KvLayout;
use batchlab::metrics::Ceilings;
use batchlab::plan::{RowPlan, StepOutput, StepPlan};
use batchlab::request::Request;
use batchlab::runner::{Dtype, Limits, MemoryUse, Runner, RunnerError};
use batchlab::sampling::Sampling;
use batchlab::scheduler::Padding;

pub const PAGE: usize = 4;
pub const STEP: Duration = Duration::from_millis(2);
/// The usual scripted model says the position of the token it was fed, plus this.
pub const FIRST_TOKEN: u32 = 1000;

/// Every step takes `STEP`, one after another; every plan is checked and kept. Tokens are really written to the pages
/// that a plan names, and the next one is made of what stands there: a row whose pages were given
/// away, or were not filled again after a preemption, says something else.
pub struct ScriptedRunner<'a> {
    pub clock: &'a ManualClock,
    pub limits: Limits,
    pub plans: Vec<StepPlan>,
    /// The next token after a row's whole history.
    pub model: fn(&[u32]) -> u32,
    /// Steps that may be under way; with more than one, rows go on from tokens that nobody was told.
    pub depth: usize,
    /// When each step under way ends, and its tokens.
    under_way: VecDeque<(Duration, Vec<u32>)>,
    /// Of the last step submitted.
    last: Vec<u32>,
    /// `[pages * PAGE]`; none has never been written.
    slab: Vec<Option<u32>>,
}

/// A next token on which every earlier one has a say, below 50.
pub fn hashed(history: &[u32]) -> u32 {
    let hash = history.iter().fold(17u32, |hash, &token| {
        (hash ^ token.wrapping_add(1))
            .wrapping_mul(0x0100_0193)
            .rotate_left(7)
    });
    hash % 50
}

impl<'a> ScriptedRunner<'a> {
    pub fn new(clock: &'a ManualClock, pages: usize) -> Self {
        Self {
            clock,
            limits: Limits {
                max_rows: 64,
                max_tokens: 4096,
                max_kv_len: 256,
            },
            plans: Vec::new(),
            model: |history| FIRST_TOKEN + history.len() as u32 - 1,
            depth: 1,
            under_way: VecDeque::new(),
            last: Vec::new(),
            slab: vec![None; pages * PAGE],
        }
    }

    fn place(row: &RowPlan, index: usize) -> usize {
        row.pages[index / PAGE] as usize * PAGE + index % PAGE
    }

    /// Writes the step's tokens and says what comes next in each row.
    fn run(&mut self, plan: &StepPlan) -> Vec<u32> {
        let mut tokens = plan.token_ids.iter();
        for row in &plan.rows {
            let written = row.kv_len - row.query_len..row.kv_len;
            for (index, &token) in written.zip(&mut tokens) {
                let token = match row.follows {
                    Some(place) => self.follow(place, token),
                    None => token,
                };
                self.slab[Self::place(row, index)] = Some(token);
            }
        }
        let next = |row: &RowPlan| {
            let visible =
                (row.kv_start..row.kv_len).map(|index| self.slab[Self::place(row, index)]);
            let history: Option<Vec<u32>> = visible.collect();
            (self.model)(&history.expect("a row sees only what was written"))
        };
        plan.rows.iter().map(next).collect()
    }

    /// The token that the last step gave a row; `told` is what the plan knows of it.
    fn follow(&self, place: u32, told: u32) -> u32 {
        let token = self.last[place as usize];
        let untold = told == 0 && !self.under_way.is_empty();
        assert!(told == token || untold, "{told} is not {token}");
        token
    }

    /// What any runner may rely on.
    fn check(&self, plan: &StepPlan) {
        assert!(!plan.rows.is_empty() && plan.rows.len() <= self.limits.max_rows);
        assert!(plan.tokens() <= self.limits.max_tokens);
        let queries: usize = plan.rows.iter().map(|r| r.query_len).sum();
        assert_eq!(queries, plan.tokens());
        let mut pages = HashSet::new();
        for row in &plan.rows {
            assert!(row.query_len >= 1 && row.query_len <= row.kv_len);
            assert!(row.query_len == 1 || row.follows.is_none());
            assert!(row.kv_start < row.kv_len && row.kv_len <= self.limits.max_kv_len);
            assert!(row.pages.len() * PAGE >= row.kv_len, "pages hold the row");
            let penalty = row.sampling.repetition_penalty != 1.0;
            assert_ne!(penalty, row.penalised.is_empty());
            for &page in &row.pages {
                assert!((page as usize) < self.slab.len() / PAGE);
                assert!(pages.insert(page), "page {page} has two owners");
            }
        }
    }
}

impl Runner for ScriptedRunner<'_> {
    fn describe(&self) -> String {
        "scripted".into()
    }
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn limits(&self) -> Limits {
        self.limits
    }
    fn kv_layout(&self) -> KvLayout {
        KvLayout {
            layers: 1,
            kv_heads: 1,
            head_dim: 8,
            page_size: PAGE,
            bytes_per_element: 4,
        }
    }
    fn kv_pages(&self) -> usize {
        self.slab.len() / PAGE
    }
    fn memory(&self) -> MemoryUse {
        MemoryUse::default()
    }
    fn measure_ceilings(&mut self) -> Result<Ceilings, RunnerError> {
        Err(RunnerError::Unavailable("scripted".into()))
    }
    fn depth(&self) -> usize {
        self.depth
    }
    fn submit(&mut self, plan: &StepPlan) -> Result<(), RunnerError> {
        assert!(self.under_way.len() < self.depth);
        self.check(plan);
        self.plans.push(plan.clone());
        self.last = self.run(plan);
        let before = self.under_way.back().map(|&(end, _)| end);
        let start = before.map_or(self.clock.now(), |end| end.max(self.clock.now()));
        self.under_way.push_back((start + STEP, self.last.clone()));
        Ok(())
    }
    fn collect(&mut self) -> Result<StepOutput, RunnerError> {
        let (end, tokens) = self.under_way.pop_front().expect("a step is under way");
        let begin = self.clock.now();
        self.clock.sleep_until(end);
        Ok(StepOutput {
            tokens,
            compute: self.clock.now() - begin,
            device: None,
        })
    }
    fn logits(&mut self) -> Result<Vec<f32>, RunnerError> {
        Err(RunnerError::Unavailable("scripted".into()))
    }
}

pub fn engine<'a>(
    runner: &'a mut ScriptedRunner<'_>,
    clock: &'a dyn Clock,
    policy: impl Policy + 'static,
    padding: Padding,
) -> Engine<'a> {
    let config = EngineConfig {
        policy: Box::new(policy),
        padding,
        max_queue_size: 1000,
        max_positions: 256,
    };
    Engine::new(runner, clock, config)
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A request that arrives at `arrival` ms.
pub fn request(id: u64, arrival: u64, prompt_len: usize, output_len: usize) -> Request {
    Request {
        id,
        prompt: (1..=prompt_len as u32).collect(),
        max_new_tokens: output_len,
        stop_tokens: Vec::new(),
        sampling: Sampling::GREEDY,
        logprobs: None,
        arrival: ms(arrival),
        timeout: None,
    }
}
