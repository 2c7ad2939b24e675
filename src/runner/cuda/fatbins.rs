//! The kernels' machine code, compiled and embedded by build.rs.

/// What build.rs made of one `kernels/<stem>.cu`.
pub(super) struct Fatbin {
    pub stem: &'static str,
    pub image: &'static [u8],
}

// `static FATBINS: Result<&[Fatbin], &str>`: the kernels, or why there are none.
include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// The kernels, or one line that says why there are none and what to do about it.
pub(super) fn all() -> Result<&'static [Fatbin], &'static str> {
    FATBINS
}
