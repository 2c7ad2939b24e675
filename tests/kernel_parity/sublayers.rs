//! attention_sublayer and mlp_sublayer against the operations that they are made of.

use batchlab::kv::KvLayout;
use batchlab::model::{Activation, NormKind};
use batchlab::runner::Dtype;
use batchlab::runner::cpu::ops::{self, AttentionRow, KvSlot};
use batchlab::runner::cuda::ops as cuda;
use batchlab::runner::cuda::ops::bias_activation::activation_code;
use batchlab::runner::cuda::ops::mlp_sublayer::slices;

use crate::check::{Tolerance, assert_close, assert_close_where_written};
use crate::device::{Buffer, Gpu, Inputs, gpu, rounded};
use crate::elementwise::ROPE;
use crate::linear::product;

const HALVES: [Dtype; 2] = [Dtype::F16, Dtype::BF16];

/// The GPU, if it has the kernels.
fn hopper() -> Option<&'static Gpu> {
    let gpu = gpu()?;
    if !gpu.kernels.has_sublayers(Dtype::BF16) {
        println!("skipped: the sublayers are for Hopper");
        return None;
    }
    Some(gpu)
}

/// Of sums of rounded values around 1, some of which may be rounded the other way: few, but where the
/// stream is shifted by 100, so many that references in f32 and f64 are up to 2.7 units apart.
fn tolerance(dtype: Dtype, shift: f32) -> Tolerance {
    let one = Tolerance::rounding(dtype);
    let units = if shift == 0.0 { 3.0 } else { 6.0 };
    one.at_least(units * one.rtol)
}

/// The residual stream before a sublayer: how it lies there, and what the sublayer makes of it.
struct Stream {
    dtype: Dtype,
    channels: usize,
    kind: NormKind,
    slices: usize,
    /// Of every value of x.
    shift: f32,
    x: Vec<f32>,
    /// `[slices, M, C]`
    parts: Vec<f32>,
    bias: Vec<f32>,
    weight: Vec<f32>,
    beta: Vec<f32>,
}

impl Stream {
    fn new(
        inputs: &mut Inputs,
        dtype: Dtype,
        rows: usize,
        channels: usize,
        slices: usize,
        shift: f32,
    ) -> Self {
        let kind = match inputs.below(2) {
            0 => NormKind::LayerNorm,
            _ => NormKind::RmsNorm,
        };
        let x = inputs.normal(Dtype::F32, rows * channels, 1.0);
        Self {
            dtype,
            channels,
            kind,
            slices,
            shift,
            x: x.into_iter().map(|v| v + shift).collect(),
            parts: inputs.normal(Dtype::F32, slices.max(1) * rows * channels, 0.3),
            bias: inputs.normal(dtype, channels, 1.0),
            weight: inputs.normal(dtype, channels, 1.0),
            beta: inputs.normal(dtype, channels, 1.0),
        }
    }

    fn rows(&self) -> usize {
        self.x.len() / self.channels
    }

    /// One of its rows alone.
    fn row(&self, row: usize) -> Self {
        let of = |values: &[f32]| -> Vec<f32> {
            let slices = values.chunks_exact(self.x.len());
            slices
                .flat_map(|s| &s[row * self.channels..][..self.channels])
                .copied()
                .collect()
        };
        let [bias, weight, beta] = [&self.bias, &self.weight, &self.beta].map(Vec::clone);
        Self {
            x: of(&self.x),
            parts: of(&self.parts),
            bias,
            weight,
            beta,
            ..*self
        }
    }

    fn summed(&self) -> Vec<f32> {
        let mut summed = self.x.clone();
        for part in self.parts.chunks_exact(self.x.len()).take(self.slices) {
            ops::residual(&mut summed, part, self.channels);
        }
        ops::add_bias(&mut summed, Some(&self.bias));
        summed
    }

    fn normed(&self) -> Vec<f32> {
        let mut normed = vec![0.0; self.x.len()];
        match self.kind {
            NormKind::LayerNorm => {
                ops::layer_norm(&mut normed, &self.summed(), &self.weight, &self.beta, 1e-5)
            }
            NormKind::RmsNorm => ops::rms_norm(&mut normed, &self.summed(), &self.weight, 1e-5),
        }
        rounded(self.dtype, &normed)
    }

    fn on_device(&self, gpu: &Gpu) -> DeviceStream {
        let half = |values: &[f32]| gpu.floats(self.dtype, values);
        DeviceStream {
            x: gpu.floats(Dtype::F32, &self.x),
            parts: gpu.floats(Dtype::F32, &self.parts),
            norm: [half(&self.bias), half(&self.weight), half(&self.beta)],
            x_out: gpu.poison(Dtype::F32, self.x.len() + self.channels),
        }
    }

    /// A sublayer's two outputs: the stream, and `slices` parts of it.
    fn check(
        &self,
        gpu: &Gpu,
        what: &str,
        device: &DeviceStream,
        parts: &Buffer,
        expected: &[f32],
    ) {
        let end = self.x.len();
        let x_out = gpu.read(&device.x_out);
        let sums = Tolerance::rounding(Dtype::F32).at_least(2e-5);
        assert_close(
            &format!("{what}: the stream"),
            &x_out[..end],
            &self.summed(),
            sums,
        );
        let parts = gpu.read(parts);
        assert_close(
            &format!("{what}: the parts"),
            &parts[..expected.len()],
            expected,
            tolerance(self.dtype, self.shift),
        );
        for rest in [&x_out[end..], &parts[expected.len()..]] {
            assert!(
                rest.iter().all(|v| v.is_nan()),
                "{what}: wrote past the end"
            );
        }
    }
}

struct DeviceStream {
    x: Buffer,
    parts: Buffer,
    norm: [Buffer; 3],
    x_out: Buffer,
}

impl DeviceStream {
    fn params(&self, gpu: &Gpu, of: &Stream) -> cuda::StreamParams {
        let [bias, weight, beta] = self.norm.each_ref().map(|buffer| buffer.ptr(gpu));
        cuda::StreamParams {
            x: self.x.ptr(gpu),
            parts: self.parts.ptr(gpu),
            bias,
            x_out: self.x_out.ptr(gpu),
            weight,
            beta: if of.kind == NormKind::LayerNorm {
                beta
            } else {
                0
            },
            slices: of.slices as i32,
            m: of.rows() as i32,
            channels: of.channels as i32,
            eps: 1e-5,
            rms: i32::from(of.kind == NormKind::RmsNorm),
        }
    }
}

/// A weight, with NaN after it.
fn weight(gpu: &Gpu, dtype: Dtype, w: &[f32]) -> Buffer {
    let mut padded = w.to_vec();
    padded.extend([f32::NAN; 64]);
    gpu.floats(dtype, &padded)
}

struct Mlp {
    stream: Stream,
    features: usize,
    gated: bool,
    activation: Activation,
    up: Vec<f32>,
    bias: Vec<f32>,
    down: Vec<f32>,
}

impl Mlp {
    fn new(inputs: &mut Inputs, stream: Stream, features: usize, gated: bool) -> Self {
        let (dtype, channels) = (stream.dtype, stream.channels);
        let columns = if gated { 2 * features } else { features };
        Self {
            features,
            gated,
            activation: [
                Activation::GeluTanh,
                Activation::GeluErf,
                Activation::Relu,
                Activation::Silu,
            ][inputs.below(4)],
            up: inputs.normal(dtype, channels * columns, 1.0 / (channels as f32).sqrt()),
            bias: inputs.normal(dtype, columns, 1.0),
            down: inputs.normal(dtype, features * channels, 1.0 / (features as f32).sqrt()),
            stream,
        }
    }

    fn slices(&self) -> usize {
        slices(self.stream.channels, self.features, self.gated).expect("a size with a kernel")
    }

    fn hidden(&self) -> Vec<f32> {
        let mut up = product(
            &self.stream.normed(),
            &self.up,
            self.stream.channels,
            self.bias.len(),
        );
        ops::add_bias(&mut up, Some(&self.bias));
        let mut hidden = vec![0.0; self.stream.rows() * self.features];
        if self.gated {
            ops::gated_activation(&mut hidden, &up, self.activation);
        } else {
            ops::activation(&mut up, self.activation);
            hidden = up;
        }
        rounded(self.stream.dtype, &hidden)
    }

    fn launch(&self, gpu: &Gpu) -> (DeviceStream, Buffer) {
        let (dtype, stream) = (self.stream.dtype, self.stream.on_device(gpu));
        let [up, bias, down] = [&self.up, &self.bias, &self.down].map(|w| weight(gpu, dtype, w));
        let parts = gpu.poison(
            Dtype::F32,
            self.slices() * self.stream.x.len() + self.stream.channels,
        );
        let p = cuda::MlpSublayerParams {
            stream: stream.params(gpu, &self.stream),
            w_up: up.ptr(gpu),
            up_bias: bias.ptr(gpu),
            w_down: down.ptr(gpu),
            parts: parts.ptr(gpu),
            features: self.features as i32,
            activation: activation_code(self.activation),
            gated: i32::from(self.gated),
        };
        gpu.kernels.mlp_sublayer(&gpu.stream, dtype, &p).unwrap();
        (stream, parts)
    }
}

/// `[slices, M, N]`: of `x · w`, what each of as many slices of K gives.
fn sliced_product(x: &[f32], w: &[f32], k: usize, n: usize, slices: usize) -> Vec<f32> {
    let own = k / slices;
    let slice = |i: usize| {
        let x: Vec<f32> = x
            .chunks_exact(k)
            .flat_map(|row| &row[i * own..][..own])
            .copied()
            .collect();
        product(&x, &w[i * own * n..][..own * n], own, n)
    };
    (0..slices).flat_map(slice).collect()
}

#[test]
fn mlp_sublayer() {
    let Some(gpu) = hopper() else { return };
    let mut inputs = Inputs::fresh();
    for dtype in HALVES {
        for (i, (channels, features, gated)) in [
            (768, 3072, false),
            (576, 1536, true),
            (64, 48, false),
            (128, 96, true),
            (1024, 4096, false),
            (320, 1280, true),
        ]
        .into_iter()
        .enumerate()
        {
            for rows in [1, 1 + inputs.below(8), 8, 9 + inputs.below(12)] {
                // A mean a hundred times the deviation must not be lost in it.
                let shift = if i % 2 == 0 { 0.0 } else { 100.0 };
                let before = [0, 3, 12, 17][inputs.below(4)];
                let stream = Stream::new(&mut inputs, dtype, rows, channels, before, shift);
                let mlp = Mlp::new(&mut inputs, stream, features, gated);
                let (device, parts) = mlp.launch(gpu);
                let what = format!(
                    "{dtype} {rows}×{channels}×{features} gated {gated} {:?} {:?} from {before} parts",
                    mlp.activation, mlp.stream.kind
                );
                let expected =
                    sliced_product(&mlp.hidden(), &mlp.down, features, channels, mlp.slices());
                mlp.stream.check(gpu, &what, &device, &parts, &expected);
            }
        }
    }
}

#[test]
fn mlp_sublayer_gives_a_row_the_same_bits_alone_in_any_company_and_again() {
    let Some(gpu) = hopper() else { return };
    let mut inputs = Inputs::fresh();
    let stream = Stream::new(&mut inputs, Dtype::BF16, 8, 576, 3, 0.0);
    let mut mlp = Mlp::new(&mut inputs, stream, 1536, true);
    let (_, all) = mlp.launch(gpu);
    let (_, again) = mlp.launch(gpu);
    assert_eq!(gpu.read_bytes(&all), gpu.read_bytes(&again));
    let kept = inputs.below(8);
    let all = gpu.read(&all);
    mlp.stream = mlp.stream.row(kept);
    let (_, alone) = mlp.launch(gpu);
    let alone = gpu.read(&alone);
    for slice in 0..mlp.slices() {
        let row = &all[(slice * 8 + kept) * 576..][..576];
        assert_eq!(
            row,
            &alone[slice * 576..][..576],
            "row {kept}, slice {slice}"
        );
    }
}

/// The rows' places, and what is there before.
struct Cache {
    kv: Vec<f32>,
    table: Vec<u32>,
    page_stride: usize,
    /// First visible position, and length with this step's token; 0 for a padding row.
    rows: Vec<(usize, usize)>,
}

impl Cache {
    fn new(inputs: &mut Inputs, dtype: Dtype, layout: KvLayout, rows: usize) -> Self {
        let lens: Vec<(usize, usize)> = (0..rows)
            .map(|row| match row % 5 {
                0 => (0, 1 + inputs.below(60)),
                1 => (0, 200 + inputs.below(400)),
                2 => (inputs.below(40), 41 + inputs.below(100)),
                3 => (
                    0,
                    [1, layout.page_size, layout.page_size + 1, 128, 129][inputs.below(5)],
                ),
                _ => (0, 0),
            })
            .collect();
        let longest = lens.iter().map(|&(_, len)| len).max().unwrap_or(0);
        let page_stride = layout.pages_for(longest) + 1;
        let mut table: Vec<u32> = (0..(rows * page_stride) as u32).collect();
        for i in (1..table.len()).rev() {
            table.swap(i, inputs.below(i + 1));
        }
        let mut cache = Self {
            kv: vec![f32::NAN; table.len() * layout.page_elements()],
            table,
            page_stride,
            rows: lens,
        };
        for row in 0..rows {
            let (start, len) = cache.rows[row];
            for (value, head) in [false, true]
                .into_iter()
                .flat_map(|v| (0..layout.kv_heads).map(move |h| (v, h)))
            {
                for j in start..len.saturating_sub(1) {
                    let page = cache.pages(row)[j / layout.page_size];
                    let at = layout.offset(page, value, head, j);
                    let fresh = inputs.normal(dtype, layout.head_dim, 1.0);
                    cache.kv[at..][..layout.head_dim].copy_from_slice(&fresh);
                }
            }
        }
        cache
    }

    fn pages(&self, row: usize) -> &[u32] {
        &self.table[row * self.page_stride..][..self.page_stride]
    }
}

#[test]
fn attention_sublayer() {
    let Some(gpu) = hopper() else { return };
    let mut inputs = Inputs::fresh();
    for (dtype, (channels, query_heads, kv_heads, head_dim, page_size)) in
        HALVES.into_iter().cycle().zip([
            (768, 12, 12, 64, 64),
            (576, 9, 3, 64, 32),
            (64, 4, 2, 32, 8),
            (128, 2, 2, 80, 16),
            (256, 2, 1, 128, 16),
            (320, 8, 1, 32, 64),
            (1024, 16, 16, 64, 128),
            (192, 6, 3, 64, 16),
            (704, 9, 3, 64, 16),
            (448, 3, 3, 128, 32),
            (576, 5, 1, 32, 16),
        ])
    {
        for rows in [1, 5, 8, 13] {
            let before = [0, 3, 16, 20][inputs.below(4)];
            let shift = [0.0, 100.0][inputs.below(2)];
            let stream = Stream::new(&mut inputs, dtype, rows, channels, before, shift);
            let layout = KvLayout {
                layers: 1,
                kv_heads,
                head_dim,
                page_size,
                bytes_per_element: 2,
            };
            let cache = Cache::new(&mut inputs, dtype, layout, rows);
            let (width, all) = (
                query_heads * head_dim,
                (query_heads + 2 * kv_heads) * head_dim,
            );
            let w_qkv = inputs.normal(dtype, channels * all, 1.0 / (channels as f32).sqrt());
            let qkv_bias = inputs.normal(dtype, all, 1.0);
            let w_out = inputs.normal(dtype, width * channels, 1.0 / (head_dim as f32).sqrt());
            let rotary = inputs.below(2) == 1;
            let longest = cache.rows.iter().map(|&(_, len)| len).max().unwrap_or(0);
            let table = ROPE.table(head_dim, longest + 1);

            let mut qkv = product(&stream.normed(), &w_qkv, channels, all);
            ops::add_bias(&mut qkv, Some(&qkv_bias));
            if rotary {
                let position =
                    |&(start, len): &(usize, usize)| len.saturating_sub(1 + start) as u32;
                let positions: Vec<u32> = cache.rows.iter().map(position).collect();
                ops::rotate(&mut qkv, &positions, &table, query_heads, &layout);
            }
            let slots: Vec<KvSlot<'_>> = (0..rows)
                .map(|row| KvSlot {
                    pages: cache.pages(row),
                    index: cache.rows[row].1.checked_sub(1),
                })
                .collect();
            let (mut q, mut kv) = (vec![0.0; rows * width], cache.kv.clone());
            ops::kv_append(&mut q, &mut kv, &rounded(dtype, &qkv), &slots, &layout);
            let mut attended = vec![0.0; rows * width];
            for row in (0..rows).filter(|&row| cache.rows[row].1 > 0) {
                let (kv_start, kv_len) = cache.rows[row];
                let one = [AttentionRow {
                    query_len: 1,
                    kv_start,
                    kv_len,
                    pages: cache.pages(row),
                }];
                let range = row * width..(row + 1) * width;
                ops::attention(
                    &mut attended[range.clone()],
                    &q[range],
                    &kv,
                    &one,
                    query_heads,
                    &layout,
                );
            }
            let expected = sliced_product(
                &rounded(dtype, &attended),
                &w_out,
                width,
                channels,
                kv_heads,
            );

            let device = stream.on_device(gpu);
            let [w_qkv, qkv_bias, w_out] =
                [&w_qkv, &qkv_bias, &w_out].map(|w| weight(gpu, dtype, w));
            let parts = gpu.poison(Dtype::F32, (kv_heads * rows + 1) * channels);
            let device_kv = gpu.floats(dtype, &cache.kv);
            let signed = |values: Vec<usize>| {
                gpu.ints(&values.iter().map(|&v| v as i32).collect::<Vec<_>>())
            };
            let page_table = signed(cache.table.iter().map(|&page| page as usize).collect());
            let kv_start = signed(cache.rows.iter().map(|&(start, _)| start).collect());
            let kv_len = signed(cache.rows.iter().map(|&(_, len)| len).collect());
            let device_table = gpu.floats(Dtype::F32, table.as_flattened());
            let p = cuda::AttentionSublayerParams {
                stream: device.params(gpu, &stream),
                w_qkv: w_qkv.ptr(gpu),
                qkv_bias: qkv_bias.ptr(gpu),
                w_out: w_out.ptr(gpu),
                parts: parts.ptr(gpu),
                kv: device_kv.ptr(gpu),
                page_table: page_table.ptr(gpu),
                kv_start: kv_start.ptr(gpu),
                kv_len: kv_len.ptr(gpu),
                rotary: if rotary { device_table.ptr(gpu) } else { 0 },
                query_heads: query_heads as i32,
                kv_heads: kv_heads as i32,
                head_dim: head_dim as i32,
                page_size: page_size as i32,
                page_stride: cache.page_stride as i32,
                scale: 1.0 / (head_dim as f32).sqrt(),
                first: 1,
            };
            let what = format!(
                "{dtype} {rows}×{channels}, heads {query_heads}/{kv_heads} of {head_dim}, rotary {rotary}, {:?} from {before} parts",
                stream.kind
            );
            gpu.kernels
                .attention_sublayer(&gpu.stream, dtype, &p)
                .unwrap();
            stream.check(gpu, &what, &device, &parts, &expected);
            let places = gpu.read(&device_kv);
            assert_close_where_written(
                &format!("{what}: pages"),
                &places,
                &kv,
                tolerance(dtype, shift),
            );
        }
    }
}

#[test]
fn sublayers_refuse_what_they_have_no_code_for() {
    let Some(gpu) = hopper() else { return };
    let mut inputs = Inputs::fresh();
    let stream = Stream::new(&mut inputs, Dtype::BF16, 1, 64, 0, 0.0);
    let device = stream.on_device(gpu);
    let params = |channels: i32, features: i32| cuda::MlpSublayerParams {
        stream: cuda::StreamParams {
            channels,
            ..device.params(gpu, &stream)
        },
        w_up: 0,
        up_bias: 0,
        w_down: 0,
        parts: 0,
        features,
        activation: 0,
        gated: 0,
    };
    let refused = |dtype, p| gpu.kernels.mlp_sublayer(&gpu.stream, dtype, &p).is_err();
    assert!(refused(Dtype::F32, params(64, 64)));
    assert!(refused(Dtype::BF16, params(72, 64)));
    assert!(refused(Dtype::BF16, params(2048, 64)));
    assert!(refused(Dtype::BF16, params(64, 40)));
}
