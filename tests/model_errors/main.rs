//! Damaged, wrong and missing models: each gives one line that names the cause and the remedy.

mod broken;
mod chat;
mod config;
mod llama;
mod opening;
mod weights;

use broken::{Broken, WEIGHTS, open};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens to the bytes, opening ends in a model or in an error of one line.
    #[test]
    fn random_damage_never_panics(
        model in prop::sample::select(vec!["gpt2-bare-names", "llama-linear"]),
        file in prop::sample::select(vec![WEIGHTS, "config.json", "tokenizer.json"]),
        cut in prop::option::of(0.0..1.0f64),
        // Most damage goes where the structure is.
        flips in prop::collection::vec((0usize..6000, any::<u8>()), 0..6),
    ) {
        let broken = Broken::copy_of(model);
        broken.edit_bytes(file, |bytes| {
            let length = bytes.len();
            for (at, value) in flips {
                bytes[at % length] = value;
            }
            if let Some(share) = cut {
                bytes.truncate((length as f64 * share) as usize);
            }
        });
        if let Err(error) = open(broken.folder.path()) {
            prop_assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
