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

/// The same lengths, of random token ids that nobody has seen before.
pub fn fresh(mut asks: Vec<Ask>, vocab: usize) -> Vec<Ask> {
    let mut rng = rand::rng();
    for ask in &mut asks {
        ask.prompt.fill_with(|| rng.random_range(0..vocab as u32));
    }
    asks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_prompts_have_the_lengths_of_their_seed_and_ids_of_their_own() {
        let (input, output) = ("20-40".parse().unwrap(), "1-9".parse().unwrap());
        let lengths = |asks: &[Ask]| -> Vec<_> {
            asks.iter()
                .map(|ask| (ask.prompt.len(), ask.output_len))
                .collect()
        };
        let known = random(&input, &output, 1000, 50, 7);
        let asks = [(); 2].map(|()| fresh(known.clone(), 1000));
        for asks in &asks {
            assert_eq!(lengths(asks), lengths(&known));
            assert!(asks.iter().flat_map(|ask| &ask.prompt).all(|id| *id < 1000));
        }
        for (i, ask) in known.iter().enumerate() {
            assert!(ask.prompt != asks[0][i].prompt && asks[0][i].prompt != asks[1][i].prompt);
        }
    }
}
