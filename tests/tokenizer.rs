//! The bundled GPT-2 tokenizer: exact ids, round trips, and text that streams token by token.

use batchlab::model::{Model, Tokenizer};
use proptest::prelude::*;
use std::sync::LazyLock;

static GPT2: LazyLock<Tokenizer> = LazyLock::new(|| Model::open(None).unwrap().tokenizer);

fn streamed(ids: &[u32]) -> Vec<String> {
    let mut stream = GPT2.stream();
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

#[test]
fn gives_the_ids_of_the_batching_lesson() {
    for (text, ids) in [
        ("Hello", vec![15496]),
        ("How are you?", vec![2437, 389, 345, 30]),
        ("What is AI?", vec![2061, 318, 9552, 30]),
        ("Hi", vec![17250]),
    ] {
        assert_eq!(GPT2.encode(text).unwrap(), ids, "{text}");
        assert_eq!(GPT2.decode(&ids).unwrap(), text);
    }
}

#[test]
fn dummy_models_share_the_tokenizer() {
    let dummy = Model::open(Some("dummy:distilgpt2")).unwrap();
    assert_eq!(
        dummy.tokenizer.encode("How are you?").unwrap(),
        [2437, 389, 345, 30]
    );
}

#[test]
fn end_of_text_is_one_token_and_not_shown() {
    let ids = GPT2.encode("a<|endoftext|>b").unwrap();
    assert_eq!(ids, [64, 50256, 65]);
    assert_eq!(GPT2.decode(&ids).unwrap(), "ab");
    assert_eq!(streamed(&ids), ["a", "", "b", ""]);
}

#[test]
fn a_character_split_over_tokens_comes_out_whole() {
    let text = "ok 🤖, 日本 naïve";
    let ids = GPT2.encode(text).unwrap();
    assert!(ids.len() > text.chars().count() / 2);
    let pieces = streamed(&ids);
    assert_eq!(pieces.concat(), text);
    assert!(
        pieces
            .iter()
            .all(|p| !p.contains(char::REPLACEMENT_CHARACTER))
    );
    // The robot takes several tokens: while it is unfinished nothing is shown.
    let robot = GPT2.encode("🤖").unwrap();
    assert!(robot.len() > 1);
    let pieces = streamed(&robot);
    assert!(pieces[..robot.len() - 1].iter().all(String::is_empty));
    assert_eq!(pieces[robot.len() - 1], "🤖");
}

#[test]
fn an_unfinished_character_is_replaced_at_the_end() {
    let robot = GPT2.encode("🤖").unwrap();
    assert_eq!(streamed(&robot[..1]).concat(), "\u{fffd}");
    // Followed by other text it must not swallow that text.
    let mut ids = robot[..1].to_vec();
    ids.extend(GPT2.encode(" then").unwrap());
    assert_eq!(streamed(&ids).concat(), "\u{fffd} then");
}

#[test]
fn an_empty_text_has_no_tokens() {
    assert!(GPT2.encode("").unwrap().is_empty());
    assert_eq!(streamed(&[]), [""]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn text_survives_the_round_trip(text in any::<String>()) {
        let ids = GPT2.encode(&text).unwrap();
        prop_assert_eq!(GPT2.decode(&ids).unwrap(), text.clone());
        prop_assert_eq!(streamed(&ids).concat(), text);
    }

    #[test]
    fn any_tokens_stream_to_the_text_they_decode_to(ids in prop::collection::vec(0u32..50257, 0..40)) {
        prop_assert_eq!(streamed(&ids).concat(), GPT2.decode(&ids).unwrap());
    }
}
