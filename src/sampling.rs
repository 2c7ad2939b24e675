//! Choosing the next token: the parameters, the counter-based generator and the reference rule.
//!
//! Sampling is Gumbel-max over the kept set: token = argmax(logit / temperature + g_i) with
//! g_i = −ln(−ln u_i), which draws from the softmax of the kept logits (Gumbel 1954; Maddison et
//! al. 2014). u_i depends only on (seed, sample index, token id), so a draw is reproducible on any
//! device and in any batch.

/// How one request's tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 = greedy (argmax, lowest id on ties); otherwise logits are divided by it, so that it is at
    /// least [`Self::LOWEST_TEMPERATURE`].
    pub temperature: f32,
    /// Keep the k largest logits (ties with the k-th are kept); 0 = all.
    pub top_k: u32,
    /// Keep the smallest set of most probable tokens whose probability reaches p (ties with the
    /// last are kept); 1 = all. Applied after `top_k`, on its renormalised probabilities.
    pub top_p: f32,
    /// Logits of tokens that the row has seen are divided by it where positive and multiplied where
    /// negative, before everything else (Keskar et al. 2019); 1 = none.
    pub repetition_penalty: f32,
    pub seed: u64,
}

impl Sampling {
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        seed: 0,
    };

    /// Below it a logit divided by the temperature may be infinite, and which of two infinities is the
    /// larger nobody knows.
    pub const LOWEST_TEMPERATURE: f32 = 1e-6;

    pub fn is_temperature(value: f32) -> bool {
        value == 0.0 || (Self::LOWEST_TEMPERATURE..=f32::MAX).contains(&value)
    }

    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

/// What the model thought of one token, by the natural logarithm of its probability: the softmax of the
/// logits that it was chosen from, after a repetition penalty and before all else.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    pub chosen: f32,
    /// The most probable tokens, the best first, the lowest id first on ties.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Of `logits` `[V]`, with the `top` most probable of them.
    pub fn of(logits: &[f32], chosen: u32, top: usize) -> Self {
        let max = logits[argmax(logits) as usize];
        let exp = |&v: &f32| f64::from(v - max).exp();
        let sum: f64 = logits.iter().filter(|v| !v.is_nan()).map(exp).sum();
        let logprob = |id: u32| (f64::from(logits[id as usize] - max) - sum.ln()) as f32;
        let better = |a: &u32, b: &u32| {
            let [a_logit, b_logit] = [a, b].map(|&id| logits[id as usize]);
            b_logit.total_cmp(&a_logit).then(a.cmp(b))
        };
        let known = |&id: &u32| !logits[id as usize].is_nan();
        let mut ids: Vec<u32> = (0..logits.len() as u32).filter(known).collect();
        let top = top.min(ids.len());
        if (1..ids.len()).contains(&top) {
            ids.select_nth_unstable_by(top - 1, better);
        }
        ids.truncate(top);
        ids.sort_unstable_by(better);
        Self {
            chosen: logprob(chosen),
            top: ids.into_iter().map(|id| (id, logprob(id))).collect(),
        }
    }
}

/// Philox 4×32-10 (Salmon et al., SC'11): four random words for a counter and a key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = u64::from(c0) * 0xD251_1F53;
        let p1 = u64::from(c2) * 0xCD9E_8D57;
        (c0, c1, c2, c3) = (
            (p1 >> 32) as u32 ^ c1 ^ k0,
            p1 as u32,
            (p0 >> 32) as u32 ^ c3 ^ k1,
            p0 as u32,
        );
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// A uniform in (0, 1) from a random word: the top 23 bits plus a half, never 0 and never 1.
pub fn unit_interval(word: u32) -> f32 {
    ((word >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0)
}

/// The Gumbel noise of one token: `-ln(-ln u)`.
pub fn gumbel(seed: u64, sample_index: u32, token: u32) -> f32 {
    let words = philox(
        [token, sample_index, 0, 0],
        [seed as u32, (seed >> 32) as u32],
    );
    -(-unit_interval(words[0]).ln()).ln()
}

/// Applies `penalty` to the logits of `tokens`, each named once. `logits` is `[V]`.
pub fn penalise(logits: &mut [f32], tokens: &[u32], penalty: f32) {
    for &token in tokens {
        let logit = &mut logits[token as usize];
        *logit = match *logit > 0.0 {
            true => *logit / penalty,
            false => *logit * penalty,
        };
    }
}

/// Index of the largest value, the lowest index on ties; NaN never wins. 0 for an empty slice.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (i, &v) in logits.iter().enumerate() {
        if v > best.0 {
            best = (v, i as u32);
        }
    }
    best.1
}

/// The smallest logit that `top_k` and `top_p` keep. `logits` is `[V]`, unscaled.
pub fn keep_threshold(logits: &[f32], s: &Sampling) -> f32 {
    let descending = |a: &f32, b: &f32| b.total_cmp(a);
    let mut kept: Vec<f32> = logits.to_vec();
    if s.top_k > 0 && (s.top_k as usize) < kept.len() {
        let (_, &mut kth, _) = kept.select_nth_unstable_by(s.top_k as usize - 1, descending);
        kept.retain(|&v| v >= kth);
    }
    if s.top_p < 1.0 {
        kept.sort_unstable_by(descending);
        let weight = |v: f32| f64::from((v - kept[0]) / s.temperature).exp();
        let wanted = kept.iter().map(|&v| weight(v)).sum::<f64>() * f64::from(s.top_p);
        let mut sum = 0.0;
        for &v in &kept {
            sum += weight(v);
            if sum >= wanted {
                return v;
            }
        }
    }
    kept.into_iter()
        .min_by(f32::total_cmp)
        .unwrap_or(f32::NEG_INFINITY)
}

/// The next token of one row. `logits` is `[V]`.
pub fn sample(logits: &[f32], s: &Sampling, sample_index: u32) -> u32 {
    if s.is_greedy() {
        return argmax(logits);
    }
    let threshold = keep_threshold(logits, s);
    let mut best = (f32::NEG_INFINITY, 0);
    for (i, &v) in logits.iter().enumerate() {
        if v >= threshold {
            let score = v / s.temperature + gumbel(s.seed, sample_index, i as u32);
            if score > best.0 {
                best = (score, i as u32);
            }
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        // Random123's kat_vectors, philox4x32 10 rounds.
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn logprobs_are_those_of_the_softmax() {
        let logits = [1.0, 3.0, 2.0, 3.0, f32::NEG_INFINITY];
        let all: f32 = logits.iter().map(|v: &f32| v.exp()).sum();
        let of = |id: usize| (logits[id].exp() / all).ln();
        let got = Logprobs::of(&logits, 2, 3);
        assert!((got.chosen - of(2)).abs() < 1e-6);
        let ids: Vec<u32> = got.top.iter().map(|&(id, _)| id).collect();
        assert_eq!(ids, [1, 3, 2], "the lower id first on ties");
        assert!(
            got.top
                .iter()
                .all(|&(id, p)| (p - of(id as usize)).abs() < 1e-6)
        );
        assert_eq!(Logprobs::of(&logits, 4, 0).chosen, f32::NEG_INFINITY);
        assert_eq!(Logprobs::of(&logits, 0, 9).top.len(), 5);
    }

    #[test]
    fn sampling_follows_the_kept_distribution() {
        let logits = [1.0, 3.0, 2.0, -5.0, 2.5];
        let s = Sampling {
            temperature: 0.7,
            top_k: 3,
            seed: 7,
            ..Sampling::GREEDY
        };
        let draws = 40_000;
        let mut counts = [0u32; 5];
        for i in 0..draws {
            counts[sample(&logits, &s, i) as usize] += 1;
        }
        let weights = logits.map(|v: f32| if v >= 2.0 { (v / 0.7).exp() } else { 0.0 });
        let total: f32 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let (seen, wanted) = (*count as f32 / draws as f32, weight / total);
            // Five standard deviations of a binomial share.
            assert!((seen - wanted).abs() <= 5.0 * (wanted * (1.0 - wanted) / draws as f32).sqrt());
        }
    }

    #[test]
    fn top_p_keeps_the_smallest_sufficient_set() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        let s = |top_p| Sampling {
            temperature: 1.0,
            top_p,
            ..Sampling::GREEDY
        };
        assert_eq!(keep_threshold(&logits, &s(0.4)), logits[0]);
        assert_eq!(keep_threshold(&logits, &s(0.7)), logits[1]);
        assert_eq!(keep_threshold(&logits, &s(1.0)), logits[3]);
    }

    #[test]
    fn top_k_keeps_ties_and_comes_before_top_p() {
        let logits = [1.0, 3.0, 2.0, 2.0, 0.0];
        let s = |top_k, top_p| Sampling {
            temperature: 1.0,
            top_k,
            top_p,
            ..Sampling::GREEDY
        };
        let kept = |s| {
            let threshold = keep_threshold(&logits, &s);
            logits.iter().filter(|&&v| v >= threshold).count()
        };
        assert_eq!([1, 2, 3, 4, 9].map(|k| kept(s(k, 1.0))), [1, 3, 3, 4, 5]);
        // Of the three kept ones the first has e/(e + 2) = 0.58 of the probability.
        assert_eq!(kept(s(2, 0.57)), 1);
        assert_eq!(kept(s(2, 0.59)), 3);
    }

    #[test]
    fn a_penalty_lowers_logits_of_either_sign() {
        let mut logits = [2.0, -2.0, 0.0, 8.0];
        penalise(&mut logits, &[0, 1, 2], 4.0);
        assert_eq!(logits, [0.5, -8.0, 0.0, 8.0]);
    }

    #[test]
    fn huge_negative_and_nan_logits_never_win() {
        assert_eq!(argmax(&[f32::NAN, -1e30, -1e38]), 1);
        assert_eq!(argmax(&[2.0, 2.0]), 0);
    }
}
