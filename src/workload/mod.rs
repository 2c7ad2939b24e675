//! What is asked and when: prompts, length mixes and arrivals, all seeded.

mod arrivals;
mod drive;
mod lengths;
mod prompts;

pub use arrivals::{Arrivals, Load, RequestOptions};
pub use drive::{DriveError, drive};
pub use lengths::LengthMix;
pub use prompts::{Ask, fresh, from_lines, random};
