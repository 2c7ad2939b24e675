//! Tokenizers, GPT-2's and one with bytes for what it does not know: exact ids, round trips, and text
//! that streams token by token.

use std::path::Path;
use std::sync::LazyLock;

use batchlab::model::{Model, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

static GPT2: LazyLock<Tokenizer> = LazyLock::new(|| Model::open(None).unwrap().tokenizer);
static BYTE_FALLBACK: LazyLock<Tokenizer> = LazyLock::new(byte_fallback);

/// A small tokenizer of Llama 2's kind: a space is "▁", one stands before every text, and characters
/// that it does not know are bytes such as <0xE2>.
fn byte_fallback() -> Tokenizer {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let letters = ('a'..='z').chain("▁日本.,!?'-\n".chars());
    let words = ["he", "▁t", "▁the", "▁日"].map(String::from);
    let vocab: serde_json::Map<String, Value> = ["<unk>", "<s>", "</s>"]
        .map(String::from)
        .into_iter()
        .chain(bytes)
        .chain(letters.map(String::from))
        .chain(words)
        .zip(0..)
        .map(|(token, id): (String, u32)| (token, id.into()))
        .collect();
    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": [["h", "e"], ["▁", "t"], ["▁t", "he"], ["▁", "日"]],
        },
    });
    let folder = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt2-f32");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture.join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    Model::open(folder.path().to_str()).unwrap().tokenizer
}

fn streamed(ids: &[u32]) -> Vec<String> {
    streamed_by(&GPT2, ids)
}

fn streamed_by(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream();
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

#[test]
fn special_tokens_come_with_the_tokenizer_or_written_out() {
    let tokenizer = &*BYTE_FALLBACK;
    let the = 297;
    assert_eq!(tokenizer.encode("the").unwrap(), [1, the]);
    assert_eq!(tokenizer.encode_rendered("the").unwrap(), [the]);
    assert_eq!(
        tokenizer.encode_rendered("<s>the</s>").unwrap(),
        [1, the, 2]
    );
}

#[test]
fn a_space_between_words_survives_the_first_token_and_special_tokens() {
    let tokenizer = &*BYTE_FALLBACK;
    let ids = tokenizer.encode("the the").unwrap();
    assert_eq!(streamed_by(tokenizer, &ids), ["", "the", " the", ""]);
    // Any number of special tokens is no first token.
    let the = ids[2];
    let ids = [vec![2; 20], vec![the], vec![2; 20], vec![the]].concat();
    assert_eq!(streamed_by(tokenizer, &ids).concat(), "the the");
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the the");
}

#[test]
fn bytes_come_out_as_whole_characters() {
    let tokenizer = &*BYTE_FALLBACK;
    let text = "the 🤖é, 日本語!\n नमस्ते 👩‍👩‍👧 🇯🇵";
    let ids = tokenizer.encode(text).unwrap();
    assert!(ids.len() > 2 * text.chars().count());
    let pieces = streamed_by(tokenizer, &ids);
    assert_eq!(pieces.concat(), text);
    assert!(
        pieces
            .iter()
            .all(|p| !p.contains(char::REPLACEMENT_CHARACTER))
    );
}

#[test]
fn text_goes_on_after_many_broken_characters() {
    for tokenizer in [&*GPT2, &*BYTE_FALLBACK] {
        let robot = tokenizer.encode_rendered("🤖").unwrap();
        let broken = robot[robot.len() - 1];
        let ids = [
            &[broken; 50],
            tokenizer
                .encode_rendered(" then 🤖 日本")
                .unwrap()
                .as_slice(),
        ]
        .concat();
        let text = streamed_by(tokenizer, &ids).concat();
        let (replaced, clean) = text.split_at(text.rfind(char::REPLACEMENT_CHARACTER).unwrap() + 3);
        assert_eq!(replaced.chars().count(), 50);
        assert_eq!(clean.trim_start(), "then 🤖 日本");
    }
}

/// Characters of one to four bytes, single and joined.
fn mixed() -> impl Strategy<Value = String> {
    let snippets = vec![
        "a",
        " ",
        "the",
        " the",
        "\n",
        "é",
        "日本",
        "語",
        "🤖",
        "👩‍👩‍👧",
        "🇯🇵",
        "नमस्ते",
        "▁",
        "\u{301}",
        "<0xE2>",
    ];
    prop::collection::vec(prop::sample::select(snippets), 0..30).prop_map(|s| s.concat())
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

    #[test]
    fn streamed_text_is_the_decoded_text_in_whole_characters(text in prop_oneof![mixed(), any::<String>()]) {
        for tokenizer in [&*GPT2, &*BYTE_FALLBACK] {
            let ids = tokenizer.encode(&text).unwrap();
            let pieces = streamed_by(tokenizer, &ids);
            prop_assert_eq!(pieces.concat(), tokenizer.decode(&ids).unwrap());
            if !text.contains(char::REPLACEMENT_CHARACTER) {
                prop_assert!(!pieces.concat().contains(char::REPLACEMENT_CHARACTER));
            }
        }
    }

    #[test]
    fn a_text_does_not_surely_exceed_its_own_tokens(text in prop_oneof![mixed(), any::<String>()]) {
        for tokenizer in [&*GPT2, &*BYTE_FALLBACK] {
            let count = tokenizer.encode(&text).unwrap().len();
            prop_assert!(!tokenizer.surely_exceeds(&text, count));
            prop_assert!(tokenizer.surely_exceeds(&"a".repeat(100_000), 100));
        }
    }

    #[test]
    fn text_after_any_tokens_is_shown(ids in prop::collection::vec(0u32..340, 0..40)) {
        let ids = [ids, BYTE_FALLBACK.encode(" then").unwrap()].concat();
        prop_assert!(streamed_by(&BYTE_FALLBACK, &ids).concat().ends_with(" then"));
    }

    #[test]
    fn replacement_characters_of_the_text_itself_stay(count in 0usize..40, next in "ਓ|🤖|é|a") {
        let text = "\u{fffd}".repeat(count) + &next;
        for tokenizer in [&*GPT2, &*BYTE_FALLBACK] {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(streamed_by(tokenizer, &ids).concat(), tokenizer.decode(&ids).unwrap());
        }
    }
}
