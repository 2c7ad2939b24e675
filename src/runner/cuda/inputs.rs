//! A step's integers on their way to the device, and its tokens on their way back.
//!
//! Everything in host memory is there twice: while a step under way reads one half and writes its
//! tokens there, the next one is packed into the other.

use cudarc::driver::result;
use cudarc::driver::sys::CUdeviceptr;

use super::device::{Device, Memory, Pinned};
use super::memory::Placement;
use super::ops::{AdvanceRowsParams, Turn};
use super::penalties::Penalties;
use super::rows::{Array, Difference, RowMirror, RowWords};
use super::shape::StepShape;
use crate::plan::StepPlan;
use crate::runner::{Limits, RunnerError};

/// Addresses of what a step reads, in 4-byte elements unless noted. They depend on whether every row
/// has one token and on nothing else, so that a captured graph finds them where they were.
#[derive(Debug, Clone, Copy)]
pub struct InputArrays {
    /// `[T]`
    pub token_ids: CUdeviceptr,
    /// `[T]`
    pub positions: CUdeviceptr,
    /// `[T]` the row of each token.
    pub token_row: CUdeviceptr,
    /// `[T]` where in its row's KV the token goes; −1 for a padding row.
    pub kv_index: CUdeviceptr,
    /// `[B + 1]` the first token of each row.
    pub query_start: CUdeviceptr,
    /// `[B]`
    pub kv_start: CUdeviceptr,
    /// `[B]`; 0 for a padding row.
    pub kv_len: CUdeviceptr,
    /// `[B]` the last token of each row, whose logits choose the next.
    pub last_token: CUdeviceptr,
    /// `[B]` f32
    pub temperature: CUdeviceptr,
    /// `[B]`
    pub top_k: CUdeviceptr,
    /// `[B]` f32
    pub top_p: CUdeviceptr,
    /// `[B]`, 8 bytes each.
    pub seed: CUdeviceptr,
    /// `[B]`
    pub sample_index: CUdeviceptr,
    /// `[B, page_stride]`
    pub page_table: CUdeviceptr,
    pub page_stride: usize,
}

/// Where everything lies on the device.
#[derive(Debug, Clone, Copy)]
struct Places {
    rows: RowWords,
    state: CUdeviceptr,
    /// `[capacity + 1]`, and the token ids right behind: uploaded together.
    query_start: CUdeviceptr,
    token_ids: CUdeviceptr,
    positions: CUdeviceptr,
    token_row: CUdeviceptr,
    kv_index: CUdeviceptr,
    last_token: CUdeviceptr,
    /// 0, 1, 2, …: the row and the last token of row b where every row has one.
    identity: CUdeviceptr,
    /// One [`Turn`].
    turn: CUdeviceptr,
    end: CUdeviceptr,
}

impl Places {
    fn from(base: CUdeviceptr, limits: &Limits, page_size: usize) -> Self {
        let StepShape { tokens, rows, .. } = StepShape::largest(limits);
        let rows = RowWords {
            capacity: rows.next_multiple_of(8),
            page_stride: limits.max_kv_len.div_ceil(page_size),
        };
        let mut p = Placement::from(base);
        let state = p.place(rows.count(), 4);
        let query_start = p.place(rows.capacity + 1 + tokens, 4);
        Self {
            rows,
            state,
            query_start,
            token_ids: query_start + 4 * (rows.capacity as u64 + 1),
            positions: p.place(tokens, 4),
            token_row: p.place(tokens, 4),
            kv_index: p.place(tokens, 4),
            last_token: p.place(rows.capacity, 4),
            identity: p.place(rows.capacity, 4),
            turn: p.place(1, size_of::<Turn>()),
            end: p.end(),
        }
    }
}

/// Bytes of device memory that the inputs take.
pub fn bytes(limits: &Limits, page_size: usize) -> u64 {
    Places::from(0, limits, page_size).end
}

/// Threads of `advance_rows`, which reads as many differences unasked.
pub const ADVANCE_THREADS: usize = 256;

/// Steps that may be under way: a half of the host's buffers for each.
pub const HALVES: usize = 2;

/// The rows' state on the device with its mirror, and the buffers that plans and tokens travel
/// through.
pub struct Inputs {
    /// First, since its drop waits for the stream: the others may be in use until then.
    device: Memory,
    places: Places,
    mirror: RowMirror,
    /// The next step's half, as on the device.
    next: usize,
    /// In each half how many differences, a word unused, then pairs of index and value.
    differences: Pinned,
    /// `[half, capacity]`, written by the last kernel of a step.
    tokens: Pinned,
    /// `query_start` and the token ids of a step whose rows have several.
    prompts: [Pinned; HALVES],
    penalties: [Penalties; HALVES],
}

impl Inputs {
    /// Room for every step within `limits`.
    pub fn allocate(
        device: &Device,
        limits: &Limits,
        page_size: usize,
    ) -> Result<Self, RunnerError> {
        let memory = device.allocate("step inputs", bytes(limits, page_size))?;
        let places = Places::from(memory.address, limits, page_size);
        let identity: Vec<u8> = (0..places.rows.capacity as u32)
            .flat_map(u32::to_le_bytes)
            .collect();
        // SAFETY: `identity` holds as many words.
        unsafe { device.upload(places.identity, &identity) }?;
        let pairs = places.rows.count().max(ADVANCE_THREADS);
        let prompts = (places.positions - places.query_start) as usize / 4;
        Ok(Self {
            mirror: RowMirror::zeroed(places.rows),
            next: 0,
            differences: device.allocate_pinned(HALVES * 2 * (1 + pairs))?,
            tokens: device.allocate_pinned(HALVES * places.rows.capacity)?,
            prompts: [
                device.allocate_pinned(prompts)?,
                device.allocate_pinned(prompts)?,
            ],
            penalties: Default::default(),
            places,
            device: memory,
        })
    }

    /// Device memory that they took.
    pub fn given_bytes(&self) -> u64 {
        self.device.given
    }

    /// Where a step of this shape finds its arrays.
    pub fn arrays(&self, shape: &StepShape) -> InputArrays {
        let p = &self.places;
        let state = |array| p.state + 4 * p.rows.array(array) as u64;
        let (token_ids, token_row, last_token) = match shape.is_decode() {
            true => (state(Array::Token), p.identity, p.identity),
            false => (p.token_ids, p.token_row, p.last_token),
        };
        InputArrays {
            token_ids,
            positions: p.positions,
            token_row,
            kv_index: p.kv_index,
            query_start: p.query_start,
            kv_start: state(Array::KvStart),
            kv_len: state(Array::KvLen),
            last_token,
            temperature: state(Array::Temperature),
            top_k: state(Array::TopK),
            top_p: state(Array::TopP),
            seed: state(Array::Seed),
            sample_index: state(Array::SampleIndex),
            page_table: p.state + 4 * p.rows.page_table() as u64,
            page_stride: p.rows.page_stride,
        }
    }

    /// The address of the address to which the step's last kernel writes its tokens for the host.
    pub fn host_tokens(&self) -> CUdeviceptr {
        self.places.turn + std::mem::offset_of!(Turn, host_tokens) as u64
    }

    /// The repetition penalties of the step that is packed.
    pub fn penalties(&self) -> &Penalties {
        &self.penalties[self.next]
    }

    /// What `advance_rows` is launched with. `tokens` is the address of the last step's.
    pub fn advance(&self, shape: &StepShape, tokens: CUdeviceptr) -> AdvanceRowsParams {
        let p = &self.places;
        AdvanceRowsParams {
            differences: self.differences.address(),
            turn: p.turn,
            host_tokens: self.tokens.address(),
            state: p.state,
            tokens,
            token_ids: p.token_ids,
            kv_index: p.kv_index,
            positions: p.positions,
            token_row: p.token_row,
            last_token: p.last_token,
            query_start: if shape.is_decode() { 0 } else { p.query_start },
            half: (self.differences.half(false).len() / 2) as i32,
            capacity: p.rows.capacity as i32,
            rows: shape.rows as i32,
        }
    }

    /// Writes what the device does not know into the next half, which no step under way uses. The plan
    /// is within bounds.
    pub fn pack(
        &mut self,
        device: &Device,
        plan: &StepPlan,
        shape: &StepShape,
    ) -> Result<(), RunnerError> {
        if shape.penalised {
            self.penalties[self.next].pack(device, plan)?;
        }
        self.pack_differences(plan);
        if !shape.is_decode() {
            self.pack_prompts(plan);
        }
        Ok(())
    }

    fn pack_differences(&mut self, plan: &StepPlan) {
        let words = self.differences.half_mut(self.next > 0);
        let mut count = 0;
        self.mirror.step(plan, |difference| {
            count += 1;
            let (index, value) = match difference {
                Difference::Word(index, value) => (index as i32, value),
                Difference::TokenOf(index, row) => (!(index as i32), row as i32),
            };
            words[2 * count] = index;
            words[2 * count + 1] = value;
        });
        words[0] = count as i32;
    }

    fn pack_prompts(&mut self, plan: &StepPlan) {
        let words = self.prompts[self.next].words_mut();
        let (starts, ids) = words.split_at_mut(self.places.rows.capacity + 1);
        let mut tokens = ids.iter_mut().zip(&plan.token_ids);
        let mut next = 0;
        for (start, row) in starts.iter_mut().zip(&plan.rows) {
            *start = next;
            next += row.query_len as i32;
            for (to, &id) in tokens.by_ref().take(row.query_len) {
                *to = match row.follows {
                    None => id as i32,
                    Some(_) => -1,
                };
            }
        }
        starts[plan.rows.len()] = next;
    }

    /// Copies the prompts' tokens, in stream order; a decode step has none.
    pub fn upload(&self, device: &Device, shape: &StepShape) -> Result<(), RunnerError> {
        if shape.is_decode() {
            return Ok(());
        }
        let used = self.places.rows.capacity + 1 + shape.tokens;
        let words = &self.prompts[self.next].words()[..used];
        let (to, stream) = (self.places.query_start, device.stream.cu_stream());
        // SAFETY: both buffers hold the largest step, and live until the stream is synchronised; this
        // half is not written before the step has been collected.
        let copied = unsafe { result::memcpy_htod_async(to, words, stream) };
        device.check("cuMemcpyHtoDAsync", copied)
    }

    /// The half of the next step, or of the one that is packed.
    pub fn next_half(&self) -> usize {
        self.next
    }

    /// The packed step is on the stream; says which half is its own.
    pub fn launched(&mut self) -> usize {
        let half = self.next;
        self.next = (half + 1) % HALVES;
        half
    }

    /// The tokens of a step that has ended.
    pub fn tokens(&self, half: usize, rows: usize) -> &[i32] {
        &self.tokens.half(half > 0)[..rows]
    }

    /// Rows of the last step.
    pub fn last_rows(&self) -> usize {
        self.mirror.rows()
    }

    /// Begins anew, with no rows, after a launch that failed somewhere: nobody knows what the device's
    /// are. The half that was packed stays the next step's, since the other may hold the tokens of a step
    /// that was not collected. The stream is idle.
    pub fn reset(&mut self, device: &Device) -> Result<(), RunnerError> {
        let Places {
            rows, state, turn, ..
        } = self.places;
        self.mirror = RowMirror::zeroed(rows);
        // SAFETY: so many words lie there.
        unsafe { device.upload(state, &vec![0; 4 * rows.count()]) }?;
        let half = turn + std::mem::offset_of!(Turn, half) as u64;
        // SAFETY: a `Turn` lies there; the step writes the rest of it before anyone reads that.
        unsafe { device.upload(half, &(self.next as i32).to_le_bytes()) }
    }
}
