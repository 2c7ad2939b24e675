//! Every CUDA kernel against its CPU reference, on fresh random inputs and on edge shapes.
//!
//! Without a GPU each test says why it was skipped and passes; with `BATCHLAB_REQUIRE_GPU=1` it fails
//! instead. A failure prints the seed; `BATCHLAB_TEST_SEED` repeats it.

mod attention;
mod attention_cases;
mod check;
mod device;
mod elementwise;
mod head;
mod kv_places;
mod linear;
mod rows;
mod sampling;
mod sublayers;
