//! advance_rows against the few lines that say what it does.

use batchlab::runner::cuda::ops as cuda;
use batchlab::runner::cuda::rows::{Array, RowWords};

use crate::device::{Gpu, Inputs, gpu};

#[test]
fn advance_rows() {
    let Some(gpu) = gpu() else { return };
    let mut inputs = Inputs::fresh();
    for (capacity, page_stride, rows, differences, decode) in [
        (8, 4, 5, 0, true),
        (8, 4, 8, 3, true),
        (256, 32, 200, 700, true),
        (1024, 16, 1024, 9000, true),
        (8, 4, 3, 6, false),
        (64, 8, 64, 40, false),
        (512, 8, 300, 1000, false),
    ] {
        let at = RowWords {
            capacity,
            page_stride,
        };
        let case = Case {
            at,
            rows,
            differences,
            decode,
        };
        check(gpu, &mut inputs, &case);
    }
}

#[derive(Debug)]
struct Case {
    at: RowWords,
    rows: usize,
    differences: usize,
    decode: bool,
}

fn check(gpu: &Gpu, inputs: &mut Inputs, case: &Case) {
    let &Case { at, rows, .. } = case;
    let mut state: Vec<i32> = (0..at.count()).map(|_| inputs.below(50) as i32).collect();
    // Every third place is empty.
    for b in (0..at.capacity).step_by(3) {
        state[at.array(Array::KvLen) + b] = 0;
    }
    let tokens: Vec<i32> = (0..at.capacity).map(|_| inputs.below(999) as i32).collect();
    // Each word differs once at most.
    let first = inputs.below(at.count());
    let pairs: Vec<(usize, i32)> = (0..case.differences.min(at.count()))
        .map(|i| ((first + i) % at.count(), 100 + inputs.below(900) as i32))
        .collect();

    let mut expected = state.clone();
    for b in 0..at.capacity {
        if state[at.array(Array::KvLen) + b] != 0 {
            expected[at.array(Array::Token) + b] = tokens[b];
            expected[at.array(Array::KvLen) + b] += 1;
            expected[at.array(Array::SampleIndex) + b] += 1;
        }
    }
    for &(index, value) in &pairs {
        expected[index] = value;
    }
    let mut query_start = vec![0];
    for b in 0..rows {
        let count = if case.decode { 1 } else { 1 + inputs.below(70) };
        query_start.push(query_start[b] + count as i32);
    }
    let count = query_start[rows] as usize;
    let (mut kv_index, mut positions, mut token_row) = (Vec::new(), Vec::new(), Vec::new());
    for b in 0..rows {
        let word = |array| expected[at.array(array) + b];
        let queries = query_start[b + 1] - query_start[b];
        for index in word(Array::KvLen) - queries..word(Array::KvLen) {
            token_row.push(b as i32);
            kv_index.push(index);
            positions.push((index - word(Array::KvStart)).max(0));
        }
    }
    let last_token: Vec<i32> = query_start[1..].iter().map(|end| end - 1).collect();

    let mut words = vec![pairs.len() as i32, -1];
    words.extend(
        pairs
            .iter()
            .flat_map(|&(index, value)| [index as i32, value]),
    );
    words.resize(words.len() + 2 * 1024, -1);
    let (differences, device_state) = (gpu.ints(&words), gpu.ints(&state));
    let (tokens, starts) = (gpu.ints(&tokens), gpu.ints(&query_start));
    let empty = || gpu.ints(&vec![-7; count + 1]);
    let [index, position, row, last] = [empty(), empty(), empty(), empty()];
    let params = cuda::AdvanceRowsParams {
        differences: differences.ptr(gpu),
        state: device_state.ptr(gpu),
        tokens: tokens.ptr(gpu),
        kv_index: index.ptr(gpu),
        positions: position.ptr(gpu),
        token_row: row.ptr(gpu),
        last_token: last.ptr(gpu),
        query_start: if case.decode { 0 } else { starts.ptr(gpu) },
        capacity: at.capacity as i32,
        rows: rows as i32,
    };
    gpu.kernels.advance_rows(&gpu.stream, &params).unwrap();
    let written = |mut values: Vec<i32>| {
        values.resize(count + 1, -7);
        values
    };
    assert_eq!(gpu.read_ints(&device_state), expected, "{case:?}");
    assert_eq!(gpu.read_ints(&index), written(kv_index), "{case:?}");
    assert_eq!(gpu.read_ints(&position), written(positions), "{case:?}");
    if !case.decode {
        assert_eq!(gpu.read_ints(&row), written(token_row), "{case:?}");
        assert_eq!(gpu.read_ints(&last), written(last_token), "{case:?}");
    }
}
