//! Text to token ids and back, through the tokenizers library.

use std::path::Path;

use tokenizers::DecoderWrapper;

use super::ModelError;
use super::contained::contained;

/// A model's tokenizer; every id it gives is below the model's vocabulary size.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Vocabulary of a model with random weights, for which this tokenizer only stands in.
    stands_in_for: Option<u32>,
    /// Bytes of the longest token as it is written in the vocabulary, which has no fewer than its text.
    longest: usize,
    /// Of each id, whether it is neither a special token nor missing from the vocabulary: those decode to
    /// nothing. Asked of every token.
    has_text: Vec<bool>,
    /// Whether a token's bytes do not depend on those before it.
    is_byte_level: bool,
}

impl Tokenizer {
    /// Reads tokenizer.json for a model with `vocab` tokens. `path` is only named in errors.
    pub(super) fn from_json(path: &Path, json: &[u8], vocab: usize) -> Result<Self, ModelError> {
        let mut inner = parse(json).map_err(|e| {
            let remedy = "copy the model's original tokenizer.json again";
            ModelError::file(path, format!("is not a tokenizer ({e})"), remedy)
        })?;
        // A file may carry the cutting and padding of its training script.
        inner
            .with_truncation(None)
            .map_err(|e| ModelError::Tokenizer(e.to_string()))?
            .with_padding(None);

        let largest = inner.get_vocab(true).into_values().max();
        let cause = match largest {
            None => "has an empty vocabulary".to_owned(),
            Some(id) if id as usize >= vocab => {
                format!("has token ids up to {id}, but the model's \"vocab_size\" is {vocab}")
            }
            // Vocabularies are padded to round sizes, but never by a tenth.
            Some(id) if (id as usize + 1) * 10 < vocab * 9 => {
                format!(
                    "knows {} tokens, but the model's \"vocab_size\" is {vocab}",
                    id + 1
                )
            }
            Some(_) => return Ok(Self::new(inner, None)),
        };
        let remedy = "use the tokenizer.json that belongs to this model";
        Err(ModelError::file(path, cause, remedy))
    }

    /// A tokenizer in place of that of a model of `vocab` tokens, whose text means nothing: ids are
    /// taken modulo `vocab` for the model, and modulo the tokenizer's own number for text.
    pub(super) fn stand_in(json: &[u8], vocab: usize) -> Result<Self, ModelError> {
        let inner = parse(json).map_err(ModelError::Tokenizer)?;
        Ok(Self::new(inner, Some(vocab as u32)))
    }

    fn new(inner: tokenizers::Tokenizer, stands_in_for: Option<u32>) -> Self {
        let vocab = inner.get_vocab(true);
        let beyond = vocab.values().max().map_or(0, |&id| id + 1);
        let special = |token: &String| inner.get_added_vocabulary().is_special_token(token);
        let has_text = |id| inner.id_to_token(id).is_some_and(|token| !special(&token));
        // A file may name a token twice: the map of names then lacks one of its ids.
        let beyond = beyond.max(inner.get_vocab_size(true) as u32);
        let has_text = (0..beyond).map(has_text).collect();
        Self {
            longest: vocab.keys().map(String::len).max().unwrap_or(0),
            is_byte_level: matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))),
            inner,
            stands_in_for,
            has_text,
        }
    }

    /// Whether a text is so long that it must have more than `count` tokens. Says so at once, where
    /// `encode` takes seconds and some seventy times the text's memory.
    pub fn surely_exceeds(&self, text: &str, count: usize) -> bool {
        text.len() > count.saturating_mul(self.longest)
    }

    /// Token ids of a text, special tokens included as the tokenizer adds them.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = called(|| self.inner.encode_fast(text, true))?;
        let ids = encoding.get_ids();
        Ok(match self.stands_in_for {
            None => ids.to_vec(),
            Some(vocab) => ids.iter().map(|id| id % vocab).collect(),
        })
    }

    /// Token ids of a text in which special tokens are written out, as in a rendered chat template;
    /// none is added.
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = called(|| self.inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of token ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        if self.stands_in_for.is_none() {
            return called(|| self.inner.decode(ids, true));
        }
        let known = self.inner.get_vocab_size(true) as u32;
        let ids: Vec<u32> = ids.iter().map(|id| id % known).collect();
        called(|| self.inner.decode(&ids, true))
    }

    /// One token as people may read it: its text, or the name of a special token.
    pub fn name(&self, id: u32) -> Result<String, ModelError> {
        match self.has_text(id) {
            false if self.stands_in_for.is_none() => {
                Ok(self.inner.id_to_token(id).unwrap_or_default())
            }
            _ => self.decode(&[id]),
        }
    }

    fn has_text(&self, id: u32) -> bool {
        self.has_text.get(id as usize).is_some_and(|&has| has)
    }

    /// Decodes one sequence token by token.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream {
            tokenizer: self,
            ids: Vec::new(),
            shown: 0,
        }
    }
}

/// The library panics on some damaged files, in its decoders, normalizers and post-processors.
/// Broken JSON, the usual damage, is kept away from it, since its own message says more.
fn parse(json: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    serde_json::from_slice::<serde::de::IgnoredAny>(json).map_err(|e| e.to_string())?;
    match contained(|| tokenizers::Tokenizer::from_bytes(json)) {
        Some(parsed) => parsed.map_err(|e| e.to_string()),
        None => Err("its contents make no tokenizer".to_owned()),
    }
}

fn called<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, ModelError> {
    let damaged = || ModelError::Tokenizer("its file is damaged".to_owned());
    let returned = contained(call).ok_or_else(damaged)?;
    returned.map_err(|e| ModelError::Tokenizer(e.to_string()))
}

/// Tokens held back at most. A character has at most four bytes, each perhaps a token of its own, so
/// that more tokens which end in none are not the beginning of one: the model writes broken text.
const LONGEST_UNFINISHED: usize = 8;
/// Bytes, and so tokens at most.
const LONGEST_CHARACTER: usize = 4;

/// Text of a sequence as its tokens arrive. A character whose bytes are spread over several tokens
/// comes out whole, with the last of them. Each token costs the decoding of a few, however long the
/// text has become.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens shown last, for context (a decoder may treat the first token apart), and after
    /// them the tokens not shown yet.
    ids: Vec<u32>,
    /// How many of `ids` are shown.
    shown: usize,
}

impl TextStream<'_> {
    /// Adds a token and returns the text that is now complete, which may be empty.
    pub fn push(&mut self, id: u32) -> Result<String, ModelError> {
        // Kept out of the window: a decoder may strip the first token that has text of its space.
        if !self.tokenizer.has_text(id) {
            return Ok(String::new());
        }
        self.ids.push(id);
        let text = self.pending(self.ids.len())?;
        // An unfinished character decodes to U+FFFD.
        let unfinished = text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER);
        if !unfinished {
            self.show(self.ids.len());
            return Ok(text);
        }
        if self.ids.len() - self.shown < LONGEST_UNFINISHED {
            return Ok(String::new());
        }
        // Broken text, or U+FFFD that the text itself holds, and after it perhaps the beginning of a
        // character: bytes that make no whole characters decode to one U+FFFD each, so that the end
        // with the shortest text cuts none.
        let (mut end, mut text) = (self.ids.len(), text);
        for shorter in 1..LONGEST_CHARACTER {
            let candidate = self.pending(self.ids.len() - shorter)?;
            if candidate.len() < text.len() {
                (end, text) = (self.ids.len() - shorter, candidate);
            }
        }
        self.show(end);
        Ok(text)
    }

    /// The tokens before `end` are shown.
    fn show(&mut self, end: usize) {
        self.ids.drain(..self.shown);
        self.shown = end - self.shown;
    }

    /// The text still held back when a sequence ends; bytes of an unfinished character are U+FFFD.
    pub fn finish(self) -> Result<String, ModelError> {
        self.pending(self.ids.len())
    }

    /// Not shown yet, of the tokens before `end`.
    fn pending(&self, end: usize) -> Result<String, ModelError> {
        if self.tokenizer.is_byte_level {
            return self.tokenizer.decode(&self.ids[self.shown..end]);
        }
        let text = self.tokenizer.decode(&self.ids[..end])?;
        let shown = self.tokenizer.decode(&self.ids[..self.shown])?;
        // Not inside a character even where broken text was shown too early.
        let from = text.ceil_char_boundary(shown.len());
        Ok(text[from..].to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn a_token_costs_the_same_however_long_the_text_is() {
        let tokenizer = Model::open(None).unwrap().tokenizer;
        let end_of_text = tokenizer.encode("<|endoftext|>").unwrap();
        let robot = tokenizer.encode("🤖").unwrap();
        let verse = tokenizer.encode(" Shall I compare thee, 日本").unwrap();
        for (name, tokens) in [
            ("text", verse.as_slice()),
            ("special tokens", &end_of_text),
            ("broken characters", &robot[..1]),
        ] {
            let mut stream = tokenizer.stream();
            for &id in tokens.iter().cycle().take(1000) {
                stream.push(id).unwrap();
                assert!(stream.ids.len() < 2 * LONGEST_UNFINISHED, "{name}");
            }
        }
    }

    #[test]
    fn both_ids_of_a_token_that_is_named_twice_have_text() {
        let json = br#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
            "normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,
            "model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["a",-1.0],["a",-1.0]]}}"#;
        let tokenizer = Tokenizer::from_json(Path::new("tokenizer.json"), json, 3).unwrap();
        for id in [1, 2] {
            assert_eq!(tokenizer.stream().push(id).unwrap(), "a", "{id}");
        }
    }
}
