//! Random places for the keys and values of some tokens: rows of any length in scattered pages.

use batchlab::kv::KvLayout;
use batchlab::runner::cpu::ops::KvSlot;
use batchlab::runner::cuda::ops::QkvTarget;

use crate::device::{Buffer, Gpu, Inputs};

/// Pages of a row.
const PER_ROW: usize = 3;

pub struct KvPlaces {
    pub layout: KvLayout,
    table: Vec<u32>,
    token_row: Vec<u32>,
    /// `None` for a padding token.
    kv_index: Vec<Option<usize>>,
    /// Of each token; any, since rows may be padded.
    positions: Vec<u32>,
    device: [Buffer; 4],
}

impl KvPlaces {
    /// Distinct places for `tokens` tokens, but none for every fourth of a row.
    pub fn new(gpu: &Gpu, inputs: &mut Inputs, layout: KvLayout, tokens: usize) -> Self {
        let page_size = layout.page_size;
        let (mut token_row, mut kv_index) = (Vec::new(), Vec::new());
        let mut row = 0;
        while token_row.len() < tokens {
            let count = (1 + inputs.below(page_size)).min(tokens - token_row.len());
            let first = inputs.below(PER_ROW * page_size - count + 1);
            for t in 0..count {
                token_row.push(row);
                kv_index.push((t % 4 != 3).then_some(first + t));
            }
            row += 1;
        }
        let mut table: Vec<u32> = (0..row * PER_ROW as u32 + 2).collect();
        for i in (1..table.len()).rev() {
            table.swap(i, inputs.below(i + 1));
        }
        let positions: Vec<u32> = (0..tokens)
            .map(|_| inputs.below(PER_ROW * page_size) as u32)
            .collect();
        let index = |i: &Option<usize>| i.map_or(-1, |i| i as i32);
        let signed = |values: &[u32]| values.iter().map(|&v| v as i32).collect::<Vec<_>>();
        let device = [
            gpu.ints(&signed(&token_row)),
            gpu.ints(&kv_index.iter().map(index).collect::<Vec<_>>()),
            gpu.ints(&signed(&table)),
            gpu.ints(&signed(&positions)),
        ];
        Self {
            layout,
            table,
            token_row,
            kv_index,
            positions,
            device,
        }
    }

    /// Elements of the slab.
    pub fn elements(&self) -> usize {
        self.table.len() * self.layout.page_elements()
    }

    /// Positions that tokens may have.
    pub fn positions(&self) -> usize {
        PER_ROW * self.layout.page_size
    }

    pub fn token_positions(&self) -> &[u32] {
        &self.positions
    }

    /// As the CPU reference takes them.
    pub fn slots(&self) -> Vec<KvSlot<'_>> {
        let places = self.token_row.iter().zip(&self.kv_index);
        let slot = |(&row, &index): (&u32, &Option<usize>)| KvSlot {
            pages: &self.table[row as usize * PER_ROW..][..PER_ROW],
            index,
        };
        places.map(slot).collect()
    }

    /// As the kernels take them, not turned.
    pub fn target(&self, gpu: &Gpu, query_heads: usize, q: &Buffer, kv: &Buffer) -> QkvTarget {
        let [token_row, kv_index, page_table, positions] = &self.device;
        QkvTarget {
            q: q.ptr(gpu),
            kv: kv.ptr(gpu),
            token_row: token_row.ptr(gpu),
            kv_index: kv_index.ptr(gpu),
            page_table: page_table.ptr(gpu),
            positions: positions.ptr(gpu),
            rotary: 0,
            query_heads: query_heads as i32,
            kv_heads: self.layout.kv_heads as i32,
            head_dim: self.layout.head_dim as i32,
            page_size: self.layout.page_size as i32,
            page_stride: PER_ROW as i32,
        }
    }
}
