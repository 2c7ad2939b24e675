//! The CUDA runner: hand-written kernels, cuBLASLt where it is found and faster, one stream.
//!
//! Everything is placed when the runner opens; a step allocates nothing. A step is submitted: its plan
//! is checked, packed and launched (one graph for a known decode shape); and later collected: waited for
//! and its tokens read. While one runs the next may be submitted behind it, so that the device goes
//! from step to step by itself.

mod ceilings;
mod device;
mod fatbins;
mod forward;
mod function;
mod gemm;
mod graphs;
mod head;
mod inputs;
pub mod kernels;
mod launch;
mod linear;
mod memory;
pub mod ops;
mod paths;
mod penalties;
mod rotary;
pub mod rows;
mod scratch;
mod shape;
mod step_timer;
mod sublayers;
pub mod tensor_map;
mod weights;

use std::collections::VecDeque;
use std::time::Instant;

use cudarc::driver::{CudaEvent, result};

use self::device::{Device, Memory};
use self::forward::{Forward, Network, Pending};
use self::gemm::Gemms;
use self::graphs::Graphs;
use self::inputs::{HALVES, Inputs};
use self::kernels::Kernels;
use self::memory::Demand;
use self::scratch::{Scratch, ScratchSizes};
use self::shape::StepShape;
use self::step_timer::StepTimer;
use self::weights::{Weights, padded_vocab};
use super::{Bounds, Dtype, Footprint, Limits, MemoryUse, Runner, RunnerError, RunnerOptions};
use crate::kv::KvLayout;
use crate::metrics::Ceilings;
use crate::model::Model;
use crate::plan::{StepOutput, StepPlan};

pub use device::{available, pci_bus_id};
pub use memory::{DRIVER_RESERVE, footprint};
pub use paths::{Path, Paths, paths};

/// Runs steps on one GPU.
pub struct CudaRunner {
    // Dropped in this order: graphs and buffers before the stream and the context in `device`.
    graphs: Graphs,
    pipeline: Pipeline,
    bounds: Bounds,
    /// Rows of the last step submitted, and whether it leaves their logits.
    rows: usize,
    has_logits: bool,
    /// Submitted and not collected, the oldest first.
    under_way: VecDeque<UnderWay>,
    /// The end of the last step in each half.
    ends: [CudaEvent; HALVES],
    timer: Option<StepTimer>,
    memory: MemoryUse,
    _kv: Memory,
    _scratch: Memory,
    _rotary: Option<Memory>,
    device: Device,
}

impl CudaRunner {
    /// Opens `cuda:{ordinal}`, checks that everything fits, then loads the model.
    ///
    /// # Errors
    /// [`RunnerError::Unavailable`] without a GPU, driver or kernels, or for sizes that have no
    /// kernel; [`RunnerError::OutOfMemory`] with the numbers; [`RunnerError::Model`].
    pub fn open(
        ordinal: usize,
        model: &Model,
        options: &RunnerOptions,
    ) -> Result<Self, RunnerError> {
        let (spec, limits) = (&model.spec, options.limits);
        let dtype = options.dtype.unwrap_or(Dtype::BF16);
        available(ordinal)?;
        let planned = footprint(spec, options)?;
        let device = Device::open(ordinal)?;
        let free_before = device.free_bytes()?;
        let kernels = Kernels::load(&device.context)?;
        let mut gemms = Gemms::open(dtype, options.cublaslt);

        let layout = spec.kv_layout(options.page_size, dtype.bytes());
        let demand = Demand {
            footprint: planned,
            layout,
            limits,
            budget: options.kv,
        };
        let kv_pages = demand.kv_pages(device.free_bytes()?, &device.name)?;

        let sizes = ScratchSizes {
            spec,
            dtype,
            limits,
        };
        let (_, scratch_bytes) = Scratch::place(0, &sizes);
        let scratch_memory = device.allocate("scratch", scratch_bytes)?;
        let (scratch, _end) = Scratch::place(scratch_memory.address, &sizes);
        gemms.set_workspace(scratch.workspace);
        let kv_bytes = kv_pages as u64 * layout.bytes_per_page() as u64;
        let kv = device.allocate("the KV cache", kv_bytes)?;
        let inputs = Inputs::allocate(&device, &limits, options.page_size)?;
        let rotary = rotary::load(&device, spec, limits.max_kv_len)?;
        let weights = Weights::load(&device, &kernels, model, dtype)?;
        let memory = MemoryUse {
            asked: Footprint {
                kv: kv_bytes,
                ..planned
            },
            given: Footprint {
                weights: weights.given_bytes(),
                scratch: scratch_memory.given
                    + inputs.given_bytes()
                    + rotary.as_ref().map_or(0, |m| m.given),
                kv: kv.given,
            },
            device: None,
        };
        let mut runner = Self {
            graphs: Graphs::default(),
            pipeline: Pipeline {
                network: Network {
                    spec: spec.clone(),
                    dtype,
                    kernels,
                    gemms,
                    weights,
                    scratch,
                    layout,
                    kv_slab: kv.address,
                    kv_pages,
                    rotary: rotary.as_ref().map_or(0, |m| m.address),
                },
                inputs,
            },
            bounds: Bounds {
                limits,
                page_size: options.page_size,
                kv_pages,
                vocab: spec.vocab,
                max_positions: spec.max_positions,
            },
            rows: 0,
            has_logits: true,
            under_way: VecDeque::new(),
            ends: [device.event()?, device.event()?],
            timer: None,
            memory,
            _kv: kv,
            _scratch: scratch_memory,
            _rotary: rotary,
            device,
        };
        runner.warm_up()?;
        let free_after = runner.device.free_bytes()?;
        runner.memory.device = Some(free_before.saturating_sub(free_after));
        Ok(runner)
    }

    /// Runs and captures every greedy decode shape on padding rows, so that no step pays for it.
    fn warm_up(&mut self) -> Result<(), RunnerError> {
        let nothing = StepPlan::default();
        for shape in StepShape::decode_shapes(&self.bounds.limits) {
            self.launch(&nothing, shape)?;
            self.device.synchronize()?;
            self.capture_if_new(shape);
        }
        Ok(())
    }

    /// Runs decode steps as plain launches from now on: what graphs are compared with.
    pub fn without_graphs(mut self) -> Self {
        self.graphs.turn_off("turned off".into());
        self
    }

    /// Packs a step and puts it on the stream; gives its half of the host's buffers.
    fn launch(&mut self, plan: &StepPlan, shape: StepShape) -> Result<usize, RunnerError> {
        self.device.make_current()?;
        self.pipeline.inputs.pack(&self.device, plan, &shape)?;
        if let Err(error) = self.put_on_stream(shape) {
            self.device.synchronize()?;
            self.pipeline.inputs.reset(&self.device)?;
            return Err(error);
        }
        if let Some(timer) = &mut self.timer {
            timer.launched();
        }
        Ok(self.pipeline.inputs.launched())
    }

    fn put_on_stream(&mut self, shape: StepShape) -> Result<(), RunnerError> {
        if let Some(timer) = &self.timer {
            timer.start(&self.device)?;
        }
        if !self.graphs.launch(&self.device, &shape)? {
            self.pipeline.launch(&self.device, shape)?;
        }
        if let Some(timer) = &self.timer {
            timer.end(&self.device)?;
        }
        self.device
            .record(&self.ends[self.pipeline.inputs.next_half()])
    }

    /// Captures a step that was just launched, for the next of its shape.
    fn capture_if_new(&mut self, shape: StepShape) {
        if self.graphs.wants(&shape) {
            let launches = || self.pipeline.launch(&self.device, shape);
            self.graphs.capture(&self.device, shape, launches);
        }
    }
}

/// A step that was submitted.
struct UnderWay {
    half: usize,
    rows: usize,
}

/// What the launches of a step touch.
struct Pipeline {
    network: Network,
    inputs: Inputs,
}

impl Pipeline {
    /// Copy in, forward pass, tokens out.
    fn launch(&mut self, device: &Device, shape: StepShape) -> Result<(), RunnerError> {
        self.inputs.upload(device, &shape)?;
        let (scratch, stride) = (self.network.scratch, padded_vocab(&self.network.spec));
        let forward = Forward {
            device,
            inputs: self.inputs.arrays(&shape),
            advance: self.inputs.advance(&shape, scratch.tokens),
            penalties: self.inputs.penalties().params(scratch.logits, stride),
            host_tokens: self.inputs.host_tokens(),
            network: &mut self.network,
            shape,
            pending: Pending::default(),
        };
        forward.run()
    }
}

impl Runner for CudaRunner {
    fn describe(&self) -> String {
        let (device, dtype) = (&self.device.name, self.pipeline.network.dtype);
        format!("{device}, {dtype}, {}", self.graphs.describe())
    }

    fn pci_bus_id(&self) -> Option<String> {
        pci_bus_id(self.device.context.ordinal()).ok()
    }

    fn dtype(&self) -> Dtype {
        self.pipeline.network.dtype
    }

    fn limits(&self) -> Limits {
        self.bounds.limits
    }

    fn kv_layout(&self) -> KvLayout {
        self.pipeline.network.layout
    }

    fn kv_pages(&self) -> usize {
        self.bounds.kv_pages
    }

    fn memory(&self) -> MemoryUse {
        self.memory
    }

    fn measure_ceilings(&mut self) -> Result<Ceilings, RunnerError> {
        self.device.make_current()?;
        ceilings::measure(&self.device, &mut self.pipeline.network)
    }

    fn depth(&self) -> usize {
        HALVES
    }

    fn submit(&mut self, plan: &StepPlan) -> Result<(), RunnerError> {
        self.bounds.check(plan, self.pipeline.inputs.last_rows())?;
        if self.under_way.len() == HALVES {
            return Err(RunnerError::too_many());
        }
        let shape = StepShape::of(plan, &self.bounds.limits);
        let half = self.launch(plan, shape)?;
        self.rows = plan.rows.len();
        self.has_logits = self.pipeline.network.leaves_logits(&shape);
        self.under_way.push_back(UnderWay {
            half,
            rows: self.rows,
        });
        self.capture_if_new(shape);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput, RunnerError> {
        let UnderWay { half, rows } = self
            .under_way
            .pop_front()
            .ok_or_else(RunnerError::none_under_way)?;
        let start = Instant::now();
        let waited = self.ends[half].synchronize();
        self.device.check("cuEventSynchronize", waited)?;
        let compute = start.elapsed();
        let tokens = self.pipeline.inputs.tokens(half, rows).iter();
        Ok(StepOutput {
            tokens: tokens.map(|&id| id as u32).collect(),
            compute,
            device: match &mut self.timer {
                Some(timer) => Some(timer.read(&self.device)?),
                None => None,
            },
        })
    }

    fn time_steps(&mut self, on: bool) -> Result<(), RunnerError> {
        if !self.under_way.is_empty() {
            return Err(RunnerError::timing_under_way());
        }
        self.timer = match on {
            true => Some(StepTimer::new(&self.device)?),
            false => None,
        };
        Ok(())
    }

    fn logits(&mut self) -> Result<Vec<f32>, RunnerError> {
        let (vocab, stride) = (
            self.pipeline.network.spec.vocab,
            padded_vocab(&self.pipeline.network.spec),
        );
        self.device.make_current()?;
        if !self.has_logits {
            let network = &mut self.pipeline.network;
            network.score_vocabulary(&self.device, self.rows)?;
            self.has_logits = true;
        }
        let mut padded = vec![0f32; self.rows * stride];
        let (from, stream) = (
            self.pipeline.network.scratch.logits,
            self.device.stream.cu_stream(),
        );
        // SAFETY: `rows` rows of `stride` logits are at `from`; waited for below.
        let copied = unsafe { result::memcpy_dtoh_async(&mut padded, from, stream) };
        self.device.check("cuMemcpyDtoHAsync", copied)?;
        self.device.synchronize()?;
        let rows = padded.chunks_exact(stride);
        Ok(rows.flat_map(|row| &row[..vocab]).copied().collect())
    }
}
