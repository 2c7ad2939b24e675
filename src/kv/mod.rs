//! The KV cache: its size formula and layout, and the pages of one preallocated pool.

mod layout;
mod pool;

pub use layout::KvLayout;
pub use pool::{Lease, PagePool};
