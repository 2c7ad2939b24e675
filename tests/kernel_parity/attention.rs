//! attention_prefill and attention_decode.

use batchlab::runner::Dtype;
use batchlab::runner::cuda::kernels::{HEAD_DIMS, Kernels};
use batchlab::runner::cuda::ops::attention_decode::{Heads, split};

use crate::attention_cases::{Case, Row, Shape};
use crate::check::{Tolerance, assert_close, difference};
use crate::device::{DTYPES, Gpu, Inputs, gpu, quick};

/// Weights of a softmax over normal values, rounded to T before they meet V: their errors average
/// out, so the worst is a few units in the last place of a value near 1.
fn tolerance(dtype: Dtype) -> Tolerance {
    Tolerance::rounding(dtype).at_least(match dtype {
        Dtype::F32 => 2e-5,
        Dtype::F16 => 1.25e-3,
        Dtype::BF16 => 1e-2,
    })
}

fn check_prefill(gpu: &Gpu, inputs: &mut Inputs, shape: &Shape) {
    let case = Case::random(inputs, shape, 1.0);
    let reference = case.reference();
    for kernel in shape.prefills(gpu) {
        let out = case.prefill(gpu, kernel);
        assert_close(
            &format!("prefill {kernel:?} {shape:?}"),
            &out,
            &reference,
            tolerance(shape.dtype),
        );
        assert!(
            bits(&out) == bits(&case.prefill(gpu, kernel)),
            "{kernel:?} {shape:?}: two runs differ"
        );
    }
}

fn check_decode(gpu: &Gpu, inputs: &mut Inputs, shape: &Shape) {
    let case = Case::random(inputs, shape, 1.0);
    let reference = case.reference();
    for split in case.splits() {
        let out = case.decode(gpu, split);
        assert_close(
            &format!("decode {split:?} {shape:?}"),
            &out,
            &reference,
            tolerance(shape.dtype),
        );
        assert!(
            bits(&out) == bits(&case.decode(gpu, split)),
            "{shape:?}: two runs differ"
        );
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// (Hq, Hkv): 1 to 25 heads, groups of 1, 2, 3, 4, 7 and 8.
const HEADS: [(usize, usize); 8] = [
    (1, 1),
    (12, 12),
    (25, 25),
    (4, 2),
    (9, 3),
    (8, 2),
    (14, 2),
    (8, 1),
];
const PAGES: [usize; 4] = [8, 16, 64, 128];

/// A test for each type and head width, since compute-sanitizer takes minutes for each.
macro_rules! for_each_type_and_width {
    ($check:ident) => {
        mod $check {
            use super::*;
            for_each_type_and_width!($check: f32 F32, f16 F16, bf16 BF16);
        }
    };
    ($check:ident: $($name:ident $dtype:ident),+) => {
        $(mod $name {
            use super::*;
            for_each_type_and_width!($check, $dtype: of_32 32, of_64 64, of_80 80, of_128 128);
        })+
    };
    ($check:ident, $dtype:ident: $($name:ident $head_dim:literal),+) => {
        $(#[test]
        fn $name() {
            $check(Dtype::$dtype, $head_dim);
        })+
    };
}

const _: () = assert!(matches!(HEAD_DIMS, [32, 64, 80, 128]), "the widths above");

for_each_type_and_width!(prefill_of_mixed_rows);
for_each_type_and_width!(decode_of_mixed_rows);

fn prefill_of_mixed_rows(dtype: Dtype, head_dim: usize) {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for (i, (query_heads, kv_heads)) in HEADS.into_iter().enumerate() {
        let page_size = PAGES[(i + head_dim / 16) % PAGES.len()];
        let (p, long) = (page_size, 40 + inputs.below(160));
        let rows = vec![
            Row::prompt(1),
            Row::prompt(p - 1),
            Row::prompt(p),
            Row::prompt(p + 1),
            Row::prompt(long),
            // Left padding: the first queries see no key at all.
            Row::prompt(long).left_padded(1 + inputs.below(long - 1)),
            // Chunked prefill: the queries come after keys of earlier steps.
            Row {
                query_len: 17,
                kv_start: 0,
                kv_len: 17 + inputs.below(100),
            },
            Row {
                query_len: 5,
                kv_start: 3,
                kv_len: 131,
            },
            // A decoding row and a graph's padding row in the same step.
            Row::decode(77),
            Row {
                query_len: 1,
                kv_start: 0,
                kv_len: 0,
            },
            Row::prompt(2),
        ];
        check_prefill(
            gpu,
            &mut inputs,
            &Shape {
                dtype,
                rows,
                query_heads,
                kv_heads,
                head_dim,
                page_size,
            },
        );
    }
}

#[test]
fn prefill_of_long_and_of_many_rows() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in DTYPES {
        for (head_dim, page_size) in [(64, 64), (128, 16)] {
            let shape = |rows| Shape {
                dtype,
                rows,
                query_heads: 2,
                kv_heads: 2,
                head_dim,
                page_size,
            };
            check_prefill(
                gpu,
                &mut inputs,
                &shape(vec![Row::prompt(1024), Row::prompt(1024).left_padded(300)]),
            );
            let many = (0..64).map(|b| Row::prompt(1 + (b * 7) % 90)).collect();
            check_prefill(gpu, &mut inputs, &shape(many));
        }
    }
}

/// More tiles of queries than a GPU has SMs, so that a block of the persistent kernel takes several:
/// rows of a few queries after many keys, padding that ends within a tile or after one, and rows whose
/// last tile has queries for some warpgroups only.
#[test]
fn prefill_of_more_tiles_than_blocks() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    let rows = if quick() { 24 } else { 48 };
    for dtype in [Dtype::F16, Dtype::BF16] {
        for (head_dim, page_size) in [(64, 32), (128, 8), (64, 256), (128, 128)] {
            let rows = (0..rows).map(|b| {
                let len = 1 + b * 37 % 400;
                match b % 4 {
                    0 => Row::prompt(len),
                    1 => Row::prompt(len).left_padded(b * 91 % len),
                    2 => Row::prompt(400).left_padded(b * 61 % 400),
                    _ => Row {
                        query_len: 1 + b % 70,
                        kv_start: b,
                        kv_len: 200 + b * 13,
                    },
                }
            });
            let shape = Shape {
                dtype,
                rows: rows.collect(),
                query_heads: 8,
                kv_heads: 2,
                head_dim,
                page_size,
            };
            check_prefill(gpu, &mut inputs, &shape);
        }
    }
}

fn decode_of_mixed_rows(dtype: Dtype, head_dim: usize) {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for (i, (query_heads, kv_heads)) in HEADS.into_iter().enumerate() {
        // Many heads take racecheck longer than it is given, and show it nothing that few do not.
        if quick() && kv_heads > 4 {
            continue;
        }
        let page_size = PAGES[(i + head_dim / 16) % PAGES.len()];
        let p = page_size;
        let long = 130 + inputs.below(200);
        let mut rows: Vec<Row> = [1, p - 1, p, p + 1, 63, 64, 65, long, 1024]
            .map(Row::decode)
            .to_vec();
        rows.push(Row::decode(long).left_padded(inputs.below(long)));
        rows.push(Row::decode(130).left_padded(129));
        // A graph's padding row.
        rows.push(Row {
            query_len: 1,
            kv_start: 0,
            kv_len: 0,
        });
        check_decode(
            gpu,
            &mut inputs,
            &Shape {
                dtype,
                rows,
                query_heads,
                kv_heads,
                head_dim,
                page_size,
            },
        );
    }
}

#[test]
fn decode_of_one_and_of_many_rows() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in DTYPES {
        for rows in [1, 2, 64] {
            let lens: Vec<Row> = (0..rows)
                .map(|_| Row::decode(1 + inputs.below(700)))
                .collect();
            let shape = Shape {
                dtype,
                rows: lens,
                query_heads: 12,
                kv_heads: 12,
                head_dim: 64,
                page_size: 64,
            };
            check_decode(gpu, &mut inputs, &shape);
            let heads = Heads {
                query: 12,
                kv: 12,
                dim: 64,
            };
            // As the runner splits it, for a bucket that is longer than any row.
            let case = Case::random(&mut inputs, &shape, 1.0);
            let out = case.decode(gpu, split(rows, heads, 1024, 132));
            assert_close(
                "decode, split for a bucket",
                &out,
                &case.reference(),
                tolerance(dtype),
            );
        }
    }
}

/// A query that finds its key: all weight on one position, scores far out of exp's range.
#[test]
fn huge_scores_select_one_key() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in DTYPES {
        for sign in [1.0, -1.0] {
            let rows = vec![Row::decode(200), Row::decode(65)];
            let shape = Shape {
                dtype,
                rows,
                query_heads: 2,
                kv_heads: 2,
                head_dim: 64,
                page_size: 16,
            };
            let mut case = Case::random(&mut inputs, &shape, 1.0);
            case.q.fill(sign * 100.0);
            let mut expected = vec![0.0; case.q.len()];
            for (row, chosen) in [(0, 57), (1, 64)] {
                for head in 0..2 {
                    for j in 0..shape.rows[row].kv_len {
                        let at = case.kv_offset(row, false, head, j);
                        // Scores: ±sign·100·64·10/8, so 16000 apart or all equal to −8000 but one.
                        let key = if j == chosen {
                            10.0 * sign
                        } else {
                            -10.0 * sign
                        };
                        case.kv[at..at + 64].fill(key);
                    }
                    let value = case.kv_offset(row, true, head, chosen);
                    let out = (row * 2 + head) * 64;
                    expected[out..out + 64].copy_from_slice(&case.kv[value..value + 64]);
                }
            }
            for split in case.splits() {
                assert_eq!(case.decode(gpu, split), expected, "decode {dtype:?} {sign}");
            }
            for kernel in shape.prefills(gpu) {
                let out = case.prefill(gpu, kernel);
                assert_eq!(out, expected, "prefill {kernel:?} {dtype:?} {sign}");
            }
        }
    }
}

/// Two keys whose scores are 0 and ln 3 must weigh ¼ and ¾: by hand, with no reference in between.
#[test]
fn the_scale_is_right() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in DTYPES {
        for head_dim in HEAD_DIMS {
            let shape = Shape {
                dtype,
                rows: vec![Row::decode(2)],
                query_heads: 1,
                kv_heads: 1,
                head_dim,
                page_size: 16,
            };
            let mut case = Case::random(&mut inputs, &shape, 1.0);
            case.q.fill(0.0);
            case.q[0] = 2.0;
            let keys = [0, 1].map(|j| case.kv_offset(0, false, 0, j));
            let values = [0, 1].map(|j| case.kv_offset(0, true, 0, j));
            for at in keys {
                case.kv[at..at + head_dim].fill(0.0);
            }
            case.kv[keys[1]] = (head_dim as f32).sqrt() * 3f32.ln() / 2.0;
            case.kv[values[0]..values[0] + head_dim].fill(0.0);
            case.kv[values[1]..values[1] + head_dim].fill(1.0);
            let expected = vec![0.75; head_dim];
            let tolerance = Tolerance::rounding(dtype).at_least(1e-4);
            for kernel in shape.prefills(gpu) {
                assert_close("prefill", &case.prefill(gpu, kernel), &expected, tolerance);
            }
            for split in case.splits() {
                assert_close("decode", &case.decode(gpu, split), &expected, tolerance);
            }
        }
    }
}

/// The comparison itself can fail: a mask that is off by one, or a scale that is off by √2, is seen
/// at the loosest tolerance.
#[test]
fn a_wrong_mask_or_scale_is_seen() {
    let mut inputs = Inputs::fresh();
    let dtype = Dtype::BF16;
    let shape = |rows| Shape {
        dtype,
        rows,
        query_heads: 2,
        kv_heads: 2,
        head_dim: 64,
        page_size: 16,
    };
    let right = Case::random(
        &mut inputs,
        &shape(vec![Row::prompt(40).left_padded(2)]),
        1.0,
    );
    let mut masked = right.clone();
    masked.shape.rows[0].kv_start = 3;
    let mut scaled = right.clone();
    scaled.q.iter_mut().for_each(|v| *v *= 2f32.sqrt());
    let reference = right.reference();
    for wrong in [masked, scaled] {
        assert!(difference(&wrong.reference(), &reference, tolerance(dtype)).is_some());
    }
}

#[test]
fn a_row_depends_on_no_other() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in DTYPES {
        for (query_heads, kv_heads) in [(3, 3), (8, 2)] {
            let kept = 1;
            let prompts = vec![
                Row::prompt(100),
                Row::prompt(75).left_padded(20),
                Row::prompt(33),
            ];
            let shape = Shape {
                dtype,
                rows: prompts,
                query_heads,
                kv_heads,
                head_dim: 64,
                page_size: 16,
            };
            let case = Case::random(&mut inputs, &shape, 1.0);
            let mut other = case.clone();
            other.refill(&mut inputs, 0);
            other.refill(&mut inputs, 2);
            let row = shape.offset(kept)..shape.offset(kept + 1);
            for kernel in shape.prefills(gpu) {
                let (a, b) = (case.prefill(gpu, kernel), other.prefill(gpu, kernel));
                assert!(
                    bits(&a[row.clone()]) == bits(&b[row.clone()]),
                    "prefill {kernel:?} {dtype:?}"
                );
            }

            let steps = vec![
                Row::decode(300),
                Row::decode(411).left_padded(20),
                Row::decode(5),
            ];
            let shape = Shape {
                rows: steps,
                ..shape
            };
            let case = Case::random(&mut inputs, &shape, 1.0);
            let mut other = case.clone();
            other.refill(&mut inputs, 0);
            other.refill(&mut inputs, 2);
            let row = shape.offset(kept)..shape.offset(kept + 1);
            for split in case.splits() {
                let (a, b) = (case.decode(gpu, split), other.decode(gpu, split));
                assert!(
                    bits(&a[row.clone()]) == bits(&b[row.clone()]),
                    "decode {dtype:?} {split:?}"
                );
            }
        }
    }
}

#[test]
fn unknown_sizes_are_refused() {
    assert!(Kernels::supports(64, 16).is_ok());
    for (head_dim, page_size) in [(48, 16), (64, 4), (64, 24), (0, 16)] {
        assert!(
            Kernels::supports(head_dim, page_size).is_err(),
            "D {head_dim} P {page_size}"
        );
    }
}
