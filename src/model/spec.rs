//! The shape of a model, read from config.json.

/// The MLP's activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU's tanh approximation, HF's `gelu_new` (Hendrycks & Gimpel 2016).
    GeluTanh,
    /// GELU by the error function, HF's `gelu`.
    GeluErf,
    Relu,
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
        }
    }
}

fn erf(x: f32) -> f32 {
    statrs::function::erf::erf(f64::from(x)) as f32
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
    /// F, the inner width of the MLP.
    pub mlp_width: usize,
    /// V, tokens the head scores.
    pub vocab: usize,
    /// Positions the model was built for: the longest context.
    pub max_positions: usize,
    pub norm_eps: f32,
    pub activation: Activation,
    /// Tokens that end a sequence.
    pub eos_tokens: Vec<u32>,
}

impl ModelSpec {
    /// Width of the fused QKV projection, (Hq + 2·Hkv)·D.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}
