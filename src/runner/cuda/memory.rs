//! The memory plan: what goes where, and whether it fits, before anything is loaded.

use super::kernels::Kernels;
use super::scratch::{Scratch, ScratchSizes};
use super::{inputs, rotary, weights};
use crate::kv::KvLayout;
use crate::model::ModelSpec;
use crate::runner::{Dtype, Footprint, KvBudget, Limits, RunnerError, RunnerOptions};

/// Left to the driver: code of the kernels and of cuBLASLt's, CUDA graphs, allocation granularity.
pub const DRIVER_RESERVE: u64 = 256 << 20;

/// What a runner places on a device when its KV slab is as large as its limits can use.
///
/// # Errors
/// [`RunnerError`] for a head width, page size or step that has no kernel.
pub fn footprint(spec: &ModelSpec, options: &RunnerOptions) -> Result<Footprint, RunnerError> {
    let (limits, dtype) = (options.limits, options.dtype.unwrap_or(Dtype::BF16));
    Kernels::supports(spec.head_dim, options.page_size)?;
    check_limits(&limits)?;
    let sizes = ScratchSizes {
        spec,
        dtype,
        limits,
    };
    let inputs = inputs::bytes(&limits, options.page_size);
    let rotary = rotary::bytes(spec, limits.max_kv_len);
    let layout = spec.kv_layout(options.page_size, dtype.bytes());
    let pages = limits.max_rows as u64 * layout.pages_for(limits.max_kv_len) as u64;
    Ok(Footprint {
        weights: weights::bytes(spec, dtype),
        scratch: Scratch::place(0, &sizes).1 + inputs + rotary,
        kv: pages.saturating_mul(layout.bytes_per_page() as u64),
    })
}

fn check_limits(limits: &Limits) -> Result<(), RunnerError> {
    let Limits {
        max_rows,
        max_tokens,
        max_kv_len,
    } = *limits;
    let sensible = |size: usize| (1..=Limits::MOST).contains(&size);
    if [max_rows, max_tokens, max_kv_len].into_iter().all(sensible) {
        return Ok(());
    }
    Err(RunnerError::Options(format!(
        "a step of {max_rows} rows, {max_tokens} tokens and context {max_kv_len} cannot be: each must be from 1 to {}",
        Limits::MOST
    )))
}

/// Lays parts out one after another. Run once from address 0 to learn the size, then again from
/// the address of memory of that size.
pub struct Placement {
    next: u64,
}

impl Placement {
    /// Enough for every vector load and for cuBLASLt's fastest kernels.
    const ALIGNMENT: u64 = 256;

    pub fn from(address: u64) -> Self {
        Self { next: address }
    }

    /// Address of the next part, of `count` elements of `element` bytes.
    pub fn place(&mut self, count: usize, element: usize) -> u64 {
        let address = self.next;
        let bytes = count as u64 * element as u64;
        self.next = (address + bytes).next_multiple_of(Self::ALIGNMENT);
        address
    }

    /// The address after the last part.
    pub fn end(&self) -> u64 {
        self.next
    }
}

/// What a runner wants to place on a device.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    pub footprint: Footprint,
    pub layout: KvLayout,
    pub limits: Limits,
    pub budget: KvBudget,
}

impl Demand {
    /// Pages of the KV slab that fit into `free` bytes of `device`.
    pub fn kv_pages(&self, free: u64, device: &str) -> Result<usize, RunnerError> {
        let page = self.layout.bytes_per_page() as u64;
        let row = self.layout.pages_for(self.limits.max_kv_len) as u64;
        let fixed = self.footprint.weights + self.footprint.scratch + DRIVER_RESERVE;
        let (pages, least, share, remedy) = match self.budget {
            KvBudget::Bytes(bytes) => {
                let pages = bytes / page;
                let remedy = "lower --kv-cache-memory, the batch or the context, or use a smaller model or --dtype";
                (pages, pages, 1.0, remedy)
            }
            KvBudget::Utilization(share) if share > 0.0 && share <= 1.0 => {
                let usable = self.footprint.kv / page;
                let budget = (free as f64 * share) as u64;
                let pages = usable.min(budget.saturating_sub(fixed) / page);
                let remedy = "raise --gpu-memory-utilization, free GPU memory, or use a smaller context, model or --dtype";
                (pages, row, share, remedy)
            }
            KvBudget::Utilization(share) => {
                return Err(RunnerError::Options(format!(
                    "--gpu-memory-utilization {share} is not above 0 and at most 1"
                )));
            }
        };
        let least = Footprint {
            kv: least.saturating_mul(page),
            ..self.footprint
        };
        let needed = least.free_needed(DRIVER_RESERVE, share);
        if needed > free || pages * page < least.kv {
            return Err(RunnerError::OutOfMemory {
                what: account(&least, share),
                needed,
                available: free,
                device: device.into(),
                remedy: remedy.into(),
            });
        }
        // Page numbers are i32 on the device.
        Ok(pages.min(i32::MAX as u64) as usize)
    }
}

fn account(footprint: &Footprint, share: f64) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let share = match share {
        1.0 => String::new(),
        share => format!(", as {share} of the free memory"),
    };
    format!(
        "the model (weights {} MiB, scratch {} MiB, KV cache {} MiB, driver {} MiB{share})",
        mib(footprint.weights),
        mib(footprint.scratch),
        mib(footprint.kv),
        mib(DRIVER_RESERVE)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::CublasLt;

    const GIB: u64 = 1 << 30;

    fn demand(budget: KvBudget) -> Demand {
        Demand {
            footprint: Footprint {
                weights: GIB,
                scratch: GIB / 4,
                kv: 128 << 20,
            },
            // 1 MiB a page.
            layout: KvLayout {
                layers: 8,
                kv_heads: 16,
                head_dim: 64,
                page_size: 32,
                bytes_per_element: 2,
            },
            limits: Limits {
                max_rows: 4,
                max_tokens: 1024,
                max_kv_len: 1024,
            },
            budget,
        }
    }

    #[test]
    fn a_share_is_split_and_never_more_than_the_limits_can_use() {
        let d = demand(KvBudget::Utilization(0.5));
        assert_eq!(d.layout.bytes_per_page(), 1 << 20);
        // 1.5 GiB are exactly what weights, scratch and reserve take, so that 40 pages are left.
        assert_eq!(d.kv_pages(3 * GIB + (80 << 20), "gpu").unwrap(), 40);
        assert_eq!(d.kv_pages(64 * GIB, "gpu").unwrap(), 4 * 32);
    }

    #[test]
    fn a_row_that_does_not_fit_is_refused_with_the_numbers() {
        let d = demand(KvBudget::Utilization(0.5));
        d.kv_pages(3 * GIB + (64 << 20), "gpu").unwrap();
        let error = d.kv_pages(3 * GIB + (62 << 20), "gpu").unwrap_err();
        let RunnerError::OutOfMemory {
            needed, available, ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(needed, 3 * GIB + (64 << 20));
        assert_eq!(available, 3 * GIB + (62 << 20));
        assert!(error.to_string().contains("weights 1024 MiB"), "{error}");
    }

    #[test]
    fn bytes_are_taken_as_asked_even_when_small() {
        let pages = |bytes| demand(KvBudget::Bytes(bytes)).kv_pages(4 * GIB, "gpu");
        assert_eq!(pages(3 << 20).unwrap(), 3);
        assert_eq!(pages((1 << 20) - 1).unwrap(), 0);
        assert_eq!(pages(2 * GIB).unwrap(), 2048);
        assert!(matches!(
            pages(3 * GIB),
            Err(RunnerError::OutOfMemory { .. })
        ));
    }

    #[test]
    fn shares_out_of_range_are_refused() {
        for share in [0.0, -0.1, 1.1, f64::NAN] {
            let d = demand(KvBudget::Utilization(share));
            assert!(matches!(
                d.kv_pages(64 * GIB, "gpu"),
                Err(RunnerError::Options(_))
            ));
        }
    }

    #[test]
    fn the_footprint_of_distilgpt2_by_hand() {
        let spec = ModelSpec::open(Some("dummy:distilgpt2")).unwrap();
        let options = |max_rows, dtype| RunnerOptions {
            dtype: Some(dtype),
            page_size: 32,
            kv: KvBudget::Utilization(0.9),
            limits: Limits {
                max_rows,
                max_tokens: max_rows * 100,
                max_kv_len: 100,
            },
            cublaslt: CublasLt::Auto,
        };
        let of = |rows, dtype| footprint(&spec, &options(rows, dtype)).unwrap();
        // 81,912,576 parameters and 47 rows of 768 that pad the embedding; every other size is a
        // multiple of 256 bytes already.
        assert_eq!(of(4, Dtype::F32).weights, 4 * (81_912_576 + 47 * 768));
        // Day 2's 14,745,600 bytes, with 128 instead of 100 positions in whole pages.
        assert_eq!(of(4, Dtype::F32).kv, 14_745_600 / 100 * 128);
        assert_eq!(2 * of(4, Dtype::BF16).kv, of(4, Dtype::F32).kv);
        assert!(of(8, Dtype::F32).scratch > of(4, Dtype::F32).scratch);
        let refused = footprint(&spec, &options(usize::MAX / 100, Dtype::F32));
        assert!(matches!(refused, Err(RunnerError::Options(_))));
    }

    #[test]
    fn parts_are_aligned_and_apart() {
        let mut p = Placement::from(1024);
        assert_eq!(p.place(1, 4), 1024);
        assert_eq!(p.place(64, 4), 1280);
        assert_eq!(p.end(), 1536);
    }
}
