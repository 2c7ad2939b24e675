//! advance_rows against the few lines that say what it does.

use batchlab::runner::cuda::ops as cuda;
use batchlab::runner::cuda::rows::{Array, Difference, RowWords};

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
        for turn in [0, 1] {
            let case = Case {
                at,
                rows,
                differences,
                decode,
                turn,
            };
            check(gpu, &mut inputs, &case);
        }
    }
}

#[derive(Debug)]
struct Case {
    at: RowWords,
    rows: usize,
    differences: usize,
    decode: bool,
    /// The half of the host's buffers.
    turn: u64,
}

fn check(gpu: &Gpu, inputs: &mut Inputs, case: &Case) {
    let &Case { at, rows, .. } = case;
    let mut state: Vec<i32> = (0..at.count()).map(|_| inputs.below(50) as i32).collect();
    // Every third place is empty.
    for b in (0..at.capacity).step_by(3) {
        state[at.array(Array::KvLen) + b] = 0;
    }
    let tokens: Vec<i32> = (0..at.capacity).map(|_| inputs.below(999) as i32).collect();
    // Each word differs once at most; every fourth takes the token of some row.
    let first = inputs.below(at.count());
    let differences: Vec<Difference> = (0..case.differences.min(at.count()))
        .map(|i| ((first + i) % at.count(), inputs.below(at.capacity)))
        .map(|(word, any)| match word % 4 {
            0 => Difference::TokenOf(word, any as u32),
            _ => Difference::Word(word, 100 + any as i32),
        })
        .collect();

    let mut expected = state.clone();
    for b in 0..at.capacity {
        if state[at.array(Array::KvLen) + b] != 0 {
            expected[at.array(Array::Token) + b] = tokens[b];
            expected[at.array(Array::KvLen) + b] += 1;
            expected[at.array(Array::SampleIndex) + b] += 1;
        }
    }
    for difference in &differences {
        match *difference {
            Difference::Word(index, value) => expected[index] = value,
            Difference::TokenOf(index, row) => expected[index] = tokens[row as usize],
        }
    }
    let mut query_start = vec![0];
    for b in 0..rows {
        let count = if case.decode { 1 } else { 1 + inputs.below(70) };
        query_start.push(query_start[b] + count as i32);
    }
    let count = query_start[rows] as usize;
    let (mut kv_index, mut positions, mut token_row) = (Vec::new(), Vec::new(), Vec::new());
    // Of these the host knows two in three.
    let token_ids: Vec<i32> = (0..count + 1)
        .map(|t| if t % 3 == 0 { -1 } else { t as i32 })
        .collect();
    let mut expected_ids = token_ids.clone();
    for b in 0..rows {
        let word = |array| expected[at.array(array) + b];
        let queries = query_start[b + 1] - query_start[b];
        for index in word(Array::KvLen) - queries..word(Array::KvLen) {
            if expected_ids[token_row.len()] < 0 {
                expected_ids[token_row.len()] = word(Array::Token);
            }
            token_row.push(b as i32);
            kv_index.push(index);
            positions.push((index - word(Array::KvStart)).max(0));
        }
    }
    let last_token: Vec<i32> = query_start[1..].iter().map(|end| end - 1).collect();

    let mut packed = vec![differences.len() as i32, -1];
    packed.extend(differences.iter().flat_map(|difference| match *difference {
        Difference::Word(index, value) => [index as i32, value],
        Difference::TokenOf(index, row) => [!(index as i32), row as i32],
    }));
    packed.resize(packed.len() + 2 * 1024, -1);
    // The other half is the next step's, and as yet anything.
    let half = packed.len() / 2;
    let anything = vec![-9; packed.len()];
    let words = match case.turn {
        0 => [packed, anything].concat(),
        _ => [anything, packed].concat(),
    };
    let (packed, device_state) = (gpu.ints(&words), gpu.ints(&state));
    let (turn, ids) = (gpu.longs(&[case.turn, 0]), gpu.ints(&token_ids));
    let (tokens, starts) = (gpu.ints(&tokens), gpu.ints(&query_start));
    let empty = || gpu.ints(&vec![-7; count + 1]);
    let [index, position, row, last] = [empty(), empty(), empty(), empty()];
    let params = cuda::AdvanceRowsParams {
        differences: packed.ptr(gpu),
        turn: turn.ptr(gpu),
        host_tokens: 1 << 20,
        state: device_state.ptr(gpu),
        tokens: tokens.ptr(gpu),
        token_ids: ids.ptr(gpu),
        kv_index: index.ptr(gpu),
        positions: position.ptr(gpu),
        token_row: row.ptr(gpu),
        last_token: last.ptr(gpu),
        query_start: if case.decode { 0 } else { starts.ptr(gpu) },
        half: half as i32,
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
    let next = [
        1 - case.turn,
        (1 << 20) + case.turn * 4 * at.capacity as u64,
    ];
    assert_eq!(
        gpu.read_bytes(&turn),
        bytemuck::cast_slice::<u64, u8>(&next)
    );
    if !case.decode {
        assert_eq!(gpu.read_ints(&ids), expected_ids, "{case:?}");
        assert_eq!(gpu.read_ints(&row), written(token_row), "{case:?}");
        assert_eq!(gpu.read_ints(&last), written(last_token), "{case:?}");
    }
}
