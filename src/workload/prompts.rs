//! What each request asks for, before it is given a time.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::LengthMix;

/// One request to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub prompt: Vec<u32>,
    pub output_len: usize,
}

/// `count` requests that go round the given prompts in order. Empty if there are no prompts.
pub fn from_lines(prompts: &[Vec<u32>], output: &LengthMix, count: usize, seed: u64) -> Vec<Ask> {
    let mut rng = Pcg64::seed_from_u64(seed);
    let round = prompts.iter().cycle().take(count);
    round
        .map(|prompt| Ask {
            prompt: prompt.clone(),
            output_len: output.draw(&mut rng),
        })
        .collect()
}

/// `count` prompts of random token ids below `vocab`.
pub fn random(
    input: &LengthMix,
    output: &LengthMix,
    vocab: usize,
    count: usize,
    seed: u64,
) -> Vec<Ask> {
    let mut rng = Pcg64::seed_from_u64(seed);
    (0..count)
        .map(|_| {
            let length = input.draw(&mut rng);
            Ask {
                prompt: (0..length)
                    .map(|_| rng.random_range(0..vocab as u32))
                    .collect(),
                output_len: output.draw(&mut rng),
            }
        })
        .collect()
}
