//! A parameter as a checkpoint stores it, read strip by strip into the matrix that a runner wants.

use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;

use super::{Element, ModelError};

/// Rows that are read together: of a tensor that lies transposed, eight 64-byte lines in a row or
/// more, which the memory fetches ahead.
const STRIP: usize = 256;

/// Columns that are turned together, so that whole lines are written too.
const TILE: usize = 32;

/// Columns that one thread takes.
const BAND: usize = 8 * TILE;

/// Elements that one thread takes at a time of what lies as it is wanted.
const BLOCK: usize = 1 << 16;

/// A `[rows, columns]` matrix, or a vector as one row, made of the tensors of a checkpoint.
#[derive(Debug, Clone)]
pub struct Stored<'a> {
    pub rows: usize,
    pub columns: usize,
    pub(super) order: Order,
    pub(super) parts: Vec<Part<'a>>,
}

/// How the stored tensors lie to each other. `[out, in]` tensors are turned to `[in, out]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// One tensor, as it is wanted.
    AsStored,
    /// One tensor `[out, in]`.
    Transposed,
    /// Queries, keys and values, `[out, in]` or `[out]` each, side by side. Dimensions i and
    /// i + D/2 of a query or key head, which rotary positions turn together, become neighbours.
    Qkv {
        head_dim: usize,
        /// Outputs that are queries, and keys.
        queries: usize,
        keys: usize,
    },
    /// Gate and up, `[out, in]` or `[out]` each: feature by feature in turns.
    GateUp,
}

impl Order {
    /// Which tensor, and which of its outputs, a column of the parameter is.
    fn source(self, column: usize) -> (usize, usize) {
        match self {
            Self::AsStored | Self::Transposed => (0, column),
            Self::Qkv {
                head_dim,
                queries,
                keys,
            } => {
                let half = |column: usize| {
                    let in_head = column % head_dim;
                    column - in_head + in_head / 2 + in_head % 2 * (head_dim / 2)
                };
                match column {
                    c if c < queries => (0, half(c)),
                    c if c < queries + keys => (1, half(c - queries)),
                    c => (2, c - queries - keys),
                }
            }
            Self::GateUp => (column % 2, column / 2),
        }
    }
}

/// One tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub path: &'a Path,
    pub name: &'a str,
    pub element: StoredType,
    /// Row-major, at any alignment.
    pub bytes: &'a [u8],
}

/// The types that a tensor may be stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredType {
    F32,
    F16,
    BF16,
}

impl Stored<'_> {
    /// Ranges of whole rows, all rows together, of about `elements` elements each, but never less
    /// than what [`Self::read`] reads well.
    pub fn chunks(&self, elements: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = self.rows;
        let step = (elements / self.columns / STRIP).max(1) * STRIP;
        (0..rows)
            .step_by(step)
            .map(move |first| first..rows.min(first + step))
    }

    /// Reads the rows from `first` on into `out`, as many as it holds: whole rows, row-major. All
    /// threads share the work.
    ///
    /// # Errors
    /// A value that overflows `T`.
    pub fn read<T: Element>(&self, first: usize, out: &mut [T]) -> Result<(), ModelError> {
        if self.order == Order::AsStored {
            let part = &self.parts[0];
            let blocks = out.par_chunks_mut(BLOCK).enumerate();
            return blocks
                .try_for_each(|(i, out)| part.read(first * self.columns + i * BLOCK, out));
        }
        // Every row in pieces, and of each band of columns its pieces together.
        let bands = self.columns.div_ceil(BAND);
        let mut pieces: Vec<Vec<&mut [T]>> = (0..bands).map(|_| Vec::new()).collect();
        for row in out.chunks_exact_mut(self.columns) {
            for (band, piece) in pieces.iter_mut().zip(row.chunks_mut(BAND)) {
                band.push(piece);
            }
        }
        pieces
            .par_iter_mut()
            .enumerate()
            .try_for_each(|(band, rows)| {
                let mut strips = rows.chunks_mut(STRIP).enumerate();
                strips
                    .try_for_each(|(i, rows)| self.read_strip(first + i * STRIP, band * BAND, rows))
            })
    }

    /// The piece from column `from` on of up to [`STRIP`] rows, which are columns of the stored
    /// tensors.
    fn read_strip<T: Element>(
        &self,
        first: usize,
        from: usize,
        rows: &mut [&mut [T]],
    ) -> Result<(), ModelError> {
        let width = rows[0].len();
        let mut tile = [[T::zeroed(); STRIP]; TILE];
        for start in (0..width).step_by(TILE) {
            let columns = start..width.min(start + TILE);
            for (column, strip) in columns.clone().zip(&mut tile) {
                let (part, output) = self.order.source(from + column);
                let element = output * self.rows + first;
                self.parts[part].read(element, &mut strip[..rows.len()])?;
            }
            for (row, out) in rows.iter_mut().enumerate() {
                for (value, strip) in out[columns.clone()].iter_mut().zip(&tile) {
                    *value = strip[row];
                }
            }
        }
        Ok(())
    }
}

impl Part<'_> {
    /// The elements from `first` on, as many as `out` holds.
    fn read<T: Element>(&self, first: usize, out: &mut [T]) -> Result<(), ModelError> {
        match self.element {
            StoredType::F32 => self.convert::<f32, T>(first, out),
            StoredType::F16 => self.convert::<f16, T>(first, out),
            StoredType::BF16 => self.convert::<bf16, T>(first, out),
        }
    }

    fn convert<S: Element, T: Element>(
        &self,
        first: usize,
        out: &mut [T],
    ) -> Result<(), ModelError> {
        let size = size_of::<S>();
        let stored = &self.bytes[first * size..][..out.len() * size];
        let mut fits = true;
        for (to, from) in out.iter_mut().zip(stored.chunks_exact(size)) {
            *to = T::from_f32(bytemuck::pod_read_unaligned::<S>(from).to_f32());
            fits &= to.is_finite();
        }
        if fits {
            return Ok(());
        }
        let at = out.iter().position(|v| !v.is_finite()).unwrap_or_default();
        let value: S = bytemuck::pod_read_unaligned(&stored[at * size..][..size]);
        let cause = format!(
            "holds {} at element {}, which {} cannot",
            value.to_f32(),
            first + at,
            T::NAME
        );
        Err(self.error(cause, "use --dtype f32"))
    }

    /// Refuses a NaN and an infinity.
    pub fn check_finite(&self) -> Result<(), ModelError> {
        let bad = match self.element {
            StoredType::F32 => not_finite::<f32>(self.bytes),
            StoredType::F16 => not_finite::<f16>(self.bytes),
            StoredType::BF16 => not_finite::<bf16>(self.bytes),
        };
        match bad {
            None => Ok(()),
            Some(index) => Err(self.error(
                format!("has a NaN or an infinity at element {index}"),
                "the training or the conversion failed; use weights that are finite",
            )),
        }
    }

    fn error(&self, cause: String, remedy: &str) -> ModelError {
        ModelError::Tensor {
            path: self.path.to_owned(),
            tensor: self.name.to_owned(),
            cause,
            remedy: remedy.to_owned(),
        }
    }
}

/// Index of the first element that is not finite.
fn not_finite<S: Element>(bytes: &[u8]) -> Option<usize> {
    let finite = |element: &[u8]| bytemuck::pod_read_unaligned::<S>(element).is_finite();
    let size = size_of::<S>();
    let block = bytes.par_chunks(BLOCK * size).position_first(|block| {
        // Without an early exit the compiler vectorises the scan.
        let elements = block.chunks_exact(size);
        !elements.fold(true, |all, element| all & finite(element))
    })?;
    let mut elements = bytes[block * BLOCK * size..].chunks_exact(size);
    Some(block * BLOCK + elements.position(|element| !finite(element))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(element: StoredType, bytes: &[u8]) -> Part<'_> {
        Part {
            path: Path::new("model.safetensors"),
            name: "w",
            element,
            bytes,
        }
    }

    fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
        values.into_iter().flat_map(f32::to_le_bytes).collect()
    }

    fn one(bytes: &[u8], order: Order, [rows, columns]: [usize; 2]) -> Stored<'_> {
        Stored {
            rows,
            columns,
            order,
            parts: vec![part(StoredType::F32, bytes)],
        }
    }

    /// Element by element, as the order says.
    #[test]
    fn any_chunk_of_any_order_is_the_matrix() {
        // Larger than a strip, a tile and a band, and no multiple of any.
        let (rows, head_dim, queries, keys) = (STRIP + 5, 6, 300, 12);
        let columns = queries + 2 * keys;
        let value = |part: usize, output: usize, row: usize| {
            (part * 1_000_000 + output * 1000 + row) as f32
        };
        let tensor = |part: usize, outputs: usize| {
            let place = (0..outputs).flat_map(|o| (0..rows).map(move |row| (o, row)));
            f32s(place.map(|(o, row)| value(part, o, row)))
        };
        let qkv = [tensor(0, queries), tensor(1, keys), tensor(2, keys)];
        let gate_up = [tensor(0, 33), tensor(1, 33)];
        let single = [tensor(0, 40)];
        let flat = [f32s((0..rows * 7).map(|i| i as f32))];
        let order = Order::Qkv {
            head_dim,
            queries,
            keys,
        };
        type Wanted = fn(usize) -> (usize, usize);
        // Heads of 6: dimension i beside i + 3.
        let heads: Wanted = |c| match c {
            312.. => (2, c - 312),
            _ => (c / 300, c % 300 / 6 * 6 + [0, 3, 1, 4, 2, 5][c % 6]),
        };
        let in_turns: Wanted = |c| (c % 2, c / 2);
        let plain: Wanted = |c| (0, c);
        let cases: [(Order, &[Vec<u8>], usize, Wanted); 4] = [
            (order, &qkv, columns, heads),
            (Order::GateUp, &gate_up, 66, in_turns),
            (Order::Transposed, &single, 40, plain),
            (Order::AsStored, &flat, 7, plain),
        ];
        for (order, tensors, columns, wanted) in cases {
            let parts = tensors.iter().map(|t| part(StoredType::F32, t));
            let stored = Stored {
                rows,
                columns,
                order,
                parts: parts.collect(),
            };
            for elements in [1, rows * columns] {
                let mut covered = 0;
                for chunk in stored.chunks(elements) {
                    let mut out = vec![0f32; chunk.len() * columns];
                    stored.read(chunk.start, &mut out).unwrap();
                    assert_eq!(chunk.start, covered);
                    covered = chunk.end;
                    for (row, got) in chunk.zip(out.chunks(columns)) {
                        for (column, &got) in got.iter().enumerate() {
                            let (part, output) = wanted(column);
                            let wanted = match order {
                                Order::AsStored => (row * columns + column) as f32,
                                _ => value(part, output, row),
                            };
                            assert_eq!(got, wanted, "{order:?} [{row}, {column}]");
                        }
                    }
                }
                assert_eq!(covered, rows);
            }
        }
    }

    #[test]
    fn conversions_round_to_nearest_even() {
        // 1 + 2⁻¹¹ and 1 + 3·2⁻¹¹ are ties for f16, 1 + 2⁻⁸ and 1 + 3·2⁻⁸ for bf16.
        let tie = |exponent: i32| {
            let step = 2f32.powi(exponent);
            f32s([1.0 + step, 1.0 + 3.0 * step, -0.0])
        };
        let mut half = [f16::ZERO; 3];
        let bytes = tie(-11);
        let stored = one(&bytes, Order::AsStored, [1, 3]);
        stored.read(0, &mut half).unwrap();
        assert_eq!(half.map(f16::to_bits), [0x3c00, 0x3c02, 0x8000]);
        let mut brain = [bf16::ZERO; 3];
        let bytes = tie(-8);
        let stored = one(&bytes, Order::AsStored, [1, 3]);
        stored.read(0, &mut brain).unwrap();
        assert_eq!(brain.map(bf16::to_bits), [0x3f80, 0x3f82, 0x8000]);
        let (mut back, bytes) = ([0f32; 3], bytemuck::bytes_of(&brain));
        part(StoredType::BF16, bytes).read(0, &mut back).unwrap();
        assert_eq!(back, [1.0, 1.0 + 2f32.powi(-6), -0.0]);
    }

    #[test]
    fn overflow_names_the_tensor_and_its_element() {
        let mut values = vec![1.0; 70_000];
        values[50_000] = -70_000.0;
        let bytes = f32s(values);
        let stored = one(&bytes, Order::Transposed, [700, 100]);
        let mut half = vec![f16::ZERO; 70_000];
        let error = stored.read(0, &mut half).unwrap_err().to_string();
        for part in ["\"w\"", "-70000 at element 50000", "f16", "--dtype f32"] {
            assert!(error.contains(part), "{error}");
        }
        let mut brain = vec![bf16::ZERO; 70_000];
        stored.read(0, &mut brain).unwrap();
    }
}
