//! The memory plan: what goes where, and whether it fits, before anything is loaded.

use crate::kv::KvLayout;
use crate::runner::{KvBudget, Limits, RunnerError};

/// Left to the driver: code of cuBLASLt's kernels, CUDA graphs, allocation granularity.
const DRIVER_RESERVE: u64 = 256 << 20;

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
    pub weights: u64,
    pub scratch: u64,
    pub layout: KvLayout,
    pub limits: Limits,
    pub budget: KvBudget,
}

impl Demand {
    /// Pages of the KV slab that fit into `free` bytes of `device`.
    pub fn kv_pages(&self, free: u64, device: &str) -> Result<usize, RunnerError> {
        let page = self.layout.bytes_per_page() as u64;
        let row = self.layout.pages_for(self.limits.max_kv_len) as u64;
        let fixed = self.weights + self.scratch + DRIVER_RESERVE;
        let (pages, least, share, remedy) = match self.budget {
            KvBudget::Bytes(bytes) => {
                let pages = bytes / page;
                let remedy = "lower --kv-cache-memory, the batch or the context, or use a smaller model or --dtype";
                (pages, pages, 1.0, remedy)
            }
            KvBudget::Utilization(share) if share > 0.0 && share <= 1.0 => {
                let usable = self.limits.max_rows as u64 * row;
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
        let needed = ((fixed + least * page) as f64 / share) as u64;
        if needed > free || pages < least {
            return Err(RunnerError::OutOfMemory {
                what: self.account(least * page, share),
                needed,
                available: free,
                device: device.into(),
                remedy: remedy.into(),
            });
        }
        // Page numbers are i32 on the device.
        Ok(pages.min(i32::MAX as u64) as usize)
    }

    fn account(&self, kv: u64, share: f64) -> String {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let share = match share {
            1.0 => String::new(),
            share => format!(", as {share} of the free memory"),
        };
        format!(
            "the model (weights {} MiB, scratch {} MiB, KV cache {} MiB, driver {} MiB{share})",
            mib(self.weights),
            mib(self.scratch),
            mib(kv),
            mib(DRIVER_RESERVE)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn demand(budget: KvBudget) -> Demand {
        Demand {
            weights: GIB,
            scratch: GIB / 4,
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
    fn parts_are_aligned_and_apart() {
        let mut p = Placement::from(1024);
        assert_eq!(p.place(1, 4), 1024);
        assert_eq!(p.place(64, 4), 1280);
        assert_eq!(p.end(), 1536);
    }
}
