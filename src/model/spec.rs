//! A model's shape and arithmetic as data: one spec for every family.

use super::{Param, Rope};
use crate::kv::KvLayout;

/// The MLP's activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU's tanh approximation, HF's `gelu_new` (Hendrycks & Gimpel 2016).
    GeluTanh,
    /// GELU by the error function, HF's `gelu`.
    GeluErf,
    Relu,
    /// x · sigmoid(x), also called swish (Elfwing et al. 2017).
    Silu,
}

impl Activation {
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::GeluTanh => {
                let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Self::GeluErf => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::Relu => x.max(0.0),
            Self::Silu => x / (1.0 + (-x).exp()),
        }
    }
}

fn erf(x: f32) -> f32 {
    statrs::function::erf::erf(f64::from(x)) as f32
}

/// How the input of a block is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Mean and deviation, weight and bias (Ba et al. 2016).
    LayerNorm,
    /// Root mean square and weight (Zhang & Sennrich 2019).
    RmsNorm,
}

/// How the model knows a token's position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// An embedding for each, added to the token's.
    Learned,
    /// Queries and keys are turned by an angle that grows with the position.
    Rotary(Rope),
}

/// Everything a forward pass must know about a model besides its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// What the user called it.
    pub name: String,
    pub layers: usize,
    /// C, the width of the residual stream.
    pub channels: usize,
    /// Hq, query heads.
    pub heads: usize,
    /// Hkv, key and value heads.
    pub kv_heads: usize,
    /// D, the width of a head.
    pub head_dim: usize,
    /// F, the inner width of the MLP: what its down projection reads.
    pub mlp_width: usize,
    /// V, tokens the head scores.
    pub vocab: usize,
    /// Positions the model was built for: the longest context.
    pub max_positions: usize,
    pub positions: Positions,
    pub norm: NormKind,
    pub norm_eps: f32,
    pub activation: Activation,
    /// The MLP is activation(gate) · up instead of activation(up) (Shazeer 2020).
    pub gated_mlp: bool,
    pub qkv_bias: bool,
    /// Of the attention's output projection.
    pub attn_out_bias: bool,
    pub mlp_bias: bool,
    /// The head is the token embedding.
    pub tied_head: bool,
    /// Tokens that end a sequence.
    pub eos_tokens: Vec<u32>,
    /// The checkpoint says that its weights are in bf16.
    pub bf16_weights: bool,
}

impl ModelSpec {
    /// Width of the fused QKV projection, (Hq + 2·Hkv)·D.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Width of the MLP's first product: F, or 2·F with the gate.
    pub fn mlp_up_width(&self) -> usize {
        match self.gated_mlp {
            true => 2 * self.mlp_width,
            false => self.mlp_width,
        }
    }

    /// Elements of all parameters; a tied head is counted once.
    pub fn parameters(&self) -> u64 {
        let params = Param::all(self);
        params.map(|param| param.count(self) as u64).sum()
    }

    /// How a runner lays out the KV slab, in pages of `page_size` positions.
    pub fn kv_layout(&self, page_size: usize, bytes_per_element: usize) -> KvLayout {
        KvLayout {
            layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            page_size,
            bytes_per_element,
        }
    }
}
