//! Panels in bf16, half of f32's bytes: a bf16 is the upper half of an f32, so that widening it in a
//! register is a shift or a mask, exact, on any processor.

use half::bf16;
use pulp::{Arch, Simd, WithSimd};

use super::matmul::{PANEL, Weight};

impl Weight for bf16 {
    const PRODUCT_BY: &'static str = "bf16 panels";

    /// The two halves of a word are columns half a panel apart, so that the lower halves of
    /// neighbouring words are neighbouring columns, and the upper halves too.
    fn column(position: usize) -> usize {
        position / 2 + position % 2 * (PANEL / 2)
    }

    fn multiply_panel(block: &mut [f32], panel: &[u32], x: &[f32], rows: usize, inputs: usize) {
        assert_eq!(block.len(), rows * PANEL);
        assert_eq!(panel.len(), inputs * PANEL / 2);
        assert_eq!(x.len(), rows * inputs);
        Arch::new().dispatch(Product {
            block,
            panel,
            x,
            inputs,
        });
    }
}

struct Product<'a> {
    block: &'a mut [f32],
    panel: &'a [u32],
    x: &'a [f32],
    inputs: usize,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // As many rows at a time as leave their sums in registers, beside four vectors of weights.
        let most = if S::REGISTER_COUNT >= 32 { 6 } else { 2 };
        let mut rows = self.x.len() / self.inputs;
        while rows > 0 {
            let taken = rows.min(most);
            match taken {
                1 => self.first_rows::<S, 1>(simd),
                2 => self.first_rows::<S, 2>(simd),
                3 => self.first_rows::<S, 3>(simd),
                4 => self.first_rows::<S, 4>(simd),
                5 => self.first_rows::<S, 5>(simd),
                _ => self.first_rows::<S, 6>(simd),
            }
            self.x = &self.x[taken * self.inputs..];
            self.block = &mut std::mem::take(&mut self.block)[taken * PANEL..];
            rows -= taken;
        }
    }
}

impl Product<'_> {
    /// The first `R` rows, by two vectors of words at a time: four of columns.
    #[inline(always)]
    fn first_rows<S: Simd, const R: usize>(&mut self, simd: S) {
        let (shift, upper) = (simd.splat_u32s(16), simd.splat_u32s(0xffff_0000));
        let x: [&[f32]; R] = std::array::from_fn(|r| &self.x[r * self.inputs..][..self.inputs]);
        let (words, _) = S::as_simd_u32s(self.panel);
        let in_row = PANEL / 2 / S::U32_LANES;
        for first in (0..in_row).step_by(2) {
            let mut sums = [[simd.splat_f32s(0.0); 4]; R];
            for (i, row) in words.chunks_exact(in_row).enumerate() {
                let (a, b) = (row[first], row[first + 1]);
                let weights = [
                    simd.wrapping_dyn_shl_u32s(a, shift),
                    simd.wrapping_dyn_shl_u32s(b, shift),
                    simd.and_u32s(a, upper),
                    simd.and_u32s(b, upper),
                ]
                .map(|bits| simd.transmute_f32s_u32s(bits));
                for (sums, x) in sums.iter_mut().zip(&x) {
                    let x = simd.splat_f32s(x[i]);
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = simd.mul_add_f32s(weight, x, *sum);
                    }
                }
            }
            for (block, sums) in self.block.chunks_exact_mut(PANEL).zip(sums) {
                let (block, _) = S::as_mut_simd_f32s(block);
                for (i, sum) in sums.into_iter().enumerate() {
                    block[i / 2 * in_row + first + i % 2] = sum;
                }
            }
        }
    }
}
