//! The floating-point types that parameters are stored in and read as.

use bytemuck::Pod;
use half::{bf16, f16};

/// A floating-point type. Its bytes are little-endian, as safetensors has them and as every machine
/// has them that runs batchlab.
pub trait Element: Pod + Send + Sync {
    /// As `--dtype` names it.
    const NAME: &'static str;

    fn to_f32(self) -> f32;

    /// Rounds to nearest even; infinite where the type does not reach.
    fn from_f32(value: f32) -> Self;

    fn is_finite(self) -> bool;
}

impl Element for f32 {
    const NAME: &'static str = "f32";

    fn to_f32(self) -> f32 {
        self
    }

    fn from_f32(value: f32) -> Self {
        value
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

/// The types of 16 bits, which convert by functions of the same names.
macro_rules! half_element {
    ($($half:ident),+) => {$(
        impl Element for $half {
            const NAME: &'static str = stringify!($half);

            fn to_f32(self) -> f32 {
                self.to_f32()
            }

            fn from_f32(value: f32) -> Self {
                Self::from_f32(value)
            }

            fn is_finite(self) -> bool {
                self.is_finite()
            }
        }
    )+};
}
half_element!(f16, bf16);
