//! `y = x · W` with the weights packed once for the way a step reads them, in f32 or in bf16.
//!
//! A decode step multiplies a few rows by every weight of the model, so it is bound by memory. The
//! columns of W lie in panels of [`PANEL`], each a contiguous `[in, PANEL]` block that streams from
//! memory in order. A panel is one task: what a row gets depends neither on the number of threads
//! nor on the other rows' contents.

use rayon::prelude::*;

use crate::model::Element;

/// Columns of a panel: whole AVX-512 and AVX2 vectors, and the fastest of 16 … 96 for 8 rows of
/// distilgpt2's shapes with AVX-512.
pub(super) const PANEL: usize = 64;

/// A type that weights are packed in. Sums are f32 whatever it is.
pub trait Weight: Element {
    /// What multiplies, for people.
    const PRODUCT_BY: &'static str;

    /// Which column of a panel lies at a position of its rows.
    fn column(position: usize) -> usize;

    /// `block = x · panel`: `[rows, PANEL]` from `[rows, inputs]` and the words of `[inputs, PANEL]`.
    fn multiply_panel(block: &mut [f32], panel: &[u32], x: &[f32], rows: usize, inputs: usize);
}

/// A weight matrix `[in, out]`.
pub struct PackedMatrix {
    inputs: usize,
    outputs: usize,
    /// `[⌈out / PANEL⌉, in, PANEL]` of a [`Weight`], zeros beyond `out`. As words, which every type
    /// has in common and vectors are loaded from.
    panels: Vec<u32>,
    multiply_panel: fn(&mut [f32], &[u32], &[f32], usize, usize),
}

impl PackedMatrix {
    /// Packs `w`, `[in, out]` row-major.
    pub fn pack<T: Weight>(w: &[T], inputs: usize, outputs: usize) -> Self {
        Self::from_fn(inputs, outputs, |i, o| w[i * outputs + o])
    }

    /// Packs `w`, `[out, in]` row-major.
    pub fn pack_transposed<T: Weight>(w: &[T], inputs: usize, outputs: usize) -> Self {
        Self::from_fn(inputs, outputs, |i, o| w[o * inputs + i])
    }

    fn from_fn<T: Weight>(
        inputs: usize,
        outputs: usize,
        at: impl Fn(usize, usize) -> T + Sync,
    ) -> Self {
        let bytes = Self::bytes(inputs, outputs, size_of::<T>());
        let mut panels = vec![0; bytes / size_of::<u32>()];
        bytemuck::cast_slice_mut::<u32, T>(&mut panels)
            .par_chunks_exact_mut(inputs * PANEL)
            .zip((0..outputs).into_par_iter().step_by(PANEL))
            .for_each(|(panel, first)| {
                for (i, row) in panel.chunks_exact_mut(PANEL).enumerate() {
                    for (position, v) in row.iter_mut().enumerate() {
                        let o = first + T::column(position);
                        if o < outputs {
                            *v = at(i, o);
                        }
                    }
                }
            });
        Self {
            inputs,
            outputs,
            panels,
            multiply_panel: T::multiply_panel,
        }
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> usize {
        size_of_val(&*self.panels)
    }

    /// Bytes that a packed `[in, out]` matrix takes.
    pub fn bytes(inputs: usize, outputs: usize, bytes_per_element: usize) -> usize {
        inputs * padded(outputs) * bytes_per_element
    }

    /// Elements of scratch that [`Self::matmul`] needs for `rows` rows of `outputs`.
    pub fn scratch_len(rows: usize, outputs: usize) -> usize {
        rows * padded(outputs)
    }

    /// `y = x · W`. `x` is `[rows, in]`, `y` `[rows, out]`, row-major.
    pub fn matmul(&self, y: &mut [f32], x: &[f32], scratch: &mut [f32]) {
        let rows = x.len() / self.inputs;
        // `[panel, rows, PANEL]`: every task has a block of its own to write.
        let blocks = &mut scratch[..Self::scratch_len(rows, self.outputs)];
        let words = self.panels.len() * PANEL / padded(self.outputs);
        blocks
            .par_chunks_exact_mut(rows * PANEL)
            .zip(self.panels.par_chunks_exact(words))
            .for_each(|(block, panel)| (self.multiply_panel)(block, panel, x, rows, self.inputs));
        y.par_chunks_exact_mut(self.outputs)
            .enumerate()
            .for_each(|(row, y)| {
                for (block, y) in blocks.chunks_exact(rows * PANEL).zip(y.chunks_mut(PANEL)) {
                    y.copy_from_slice(&block[row * PANEL..][..y.len()]);
                }
            });
    }
}

fn padded(outputs: usize) -> usize {
    outputs.next_multiple_of(PANEL)
}

impl Weight for f32 {
    const PRODUCT_BY: &'static str = "gemm";

    fn column(position: usize) -> usize {
        position
    }

    fn multiply_panel(block: &mut [f32], panel: &[u32], x: &[f32], rows: usize, inputs: usize) {
        assert_eq!(block.len(), rows * PANEL);
        assert_eq!(panel.len(), inputs * PANEL);
        assert_eq!(x.len(), rows * inputs);
        let panel: &[f32] = bytemuck::cast_slice(panel);
        // The library wants the vectors along its first dimension: blockᵀ = panelᵀ · xᵀ.
        // SAFETY: the three lengths just asserted are those of the shapes and strides given, and
        // `block` is borrowed mutably, so nothing overlaps it.
        unsafe {
            gemm::gemm(
                PANEL,
                rows,
                inputs,
                block.as_mut_ptr(),
                PANEL as isize,
                1,
                false,
                panel.as_ptr(),
                PANEL as isize,
                1,
                x.as_ptr(),
                inputs as isize,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn values(count: usize, salt: usize) -> Vec<f32> {
        (0..count)
            .map(|i| crate::model::seeded_unit(salt as u64, i as u64))
            .collect()
    }

    /// Rounded to `T`: what a product must be exact for.
    fn rounded<T: Weight>(values: &[f32]) -> Vec<T> {
        values.iter().map(|&v| T::from_f32(v)).collect()
    }

    fn equals_the_sum_of_products<T: Weight>() {
        for (rows, inputs, outputs) in [
            (1, 1, 1),
            (1, 5, 63),
            (2, 64, 64),
            (3, 130, 65),
            (6, 31, 97),
            (7, 9, 128),
            (13, 2, 200),
            (70, 700, 129),
        ] {
            let x = values(rows * inputs, 1);
            let w: Vec<T> = rounded(&values(inputs * outputs, 2));
            let transposed: Vec<T> = (0..inputs * outputs)
                .map(|i| w[i % inputs * outputs + i / inputs])
                .collect();
            let mut scratch = vec![f32::NAN; PackedMatrix::scratch_len(rows, outputs)];
            let mut y = vec![f32::NAN; rows * outputs];
            let mut y_transposed = y.clone();
            let packed = PackedMatrix::pack(&w, inputs, outputs);
            let bytes = PackedMatrix::bytes(inputs, outputs, size_of::<T>());
            assert_eq!(packed.held_bytes(), bytes);
            packed.matmul(&mut y, &x, &mut scratch);
            PackedMatrix::pack_transposed(&transposed, inputs, outputs).matmul(
                &mut y_transposed,
                &x,
                &mut scratch,
            );
            assert_eq!(y, y_transposed);
            for (i, got) in y.iter().enumerate() {
                let (row, o) = (i / outputs, i % outputs);
                let wanted: f64 = (0..inputs)
                    .map(|k| {
                        f64::from(x[row * inputs + k]) * f64::from(w[k * outputs + o].to_f32())
                    })
                    .sum();
                assert!((f64::from(*got) - wanted).abs() < 1e-4, "{got} {wanted}");
            }
        }
    }

    #[test]
    fn a_product_equals_the_sum_of_products_at_any_shape() {
        equals_the_sum_of_products::<f32>();
        equals_the_sum_of_products::<bf16>();
    }

    fn depends_on_no_other_row<T: Weight>() {
        let (inputs, outputs) = (300, 130);
        let w: Vec<T> = rounded(&values(inputs * outputs, 3));
        let w = PackedMatrix::pack(&w, inputs, outputs);
        for rows in [2, 3, 8, 17, 100] {
            let run = |x: &[f32]| {
                let mut y = vec![0.0; rows * outputs];
                let mut scratch = vec![0.0; PackedMatrix::scratch_len(rows, outputs)];
                w.matmul(&mut y, x, &mut scratch);
                y
            };
            let mut x = values(rows * inputs, 4);
            let before = run(&x);
            x[inputs..2 * inputs].fill(1e30);
            let after = run(&x);
            assert_eq!(before[..outputs], after[..outputs]);
            assert_eq!(before[2 * outputs..], after[2 * outputs..]);
            assert_ne!(before, after);
        }
    }

    #[test]
    fn a_row_depends_on_no_other_row() {
        depends_on_no_other_row::<f32>();
        depends_on_no_other_row::<bf16>();
    }
}
