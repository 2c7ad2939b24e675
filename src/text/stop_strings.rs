//! Stop strings: texts that end an output before they are shown.

/// A stop string that every text contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stop string is empty; give at least one character")]
pub struct EmptyStopString;

/// The texts that end an output. Of several, the one that is complete first counts, and of two that
/// are complete together the longer one, so that what is shown does not depend on how the text came.
#[derive(Debug, Clone, Default)]
pub struct StopStrings(Vec<String>);

impl StopStrings {
    pub fn new(stops: Vec<String>) -> Result<Self, EmptyStopString> {
        match stops.iter().any(String::is_empty) {
            true => Err(EmptyStopString),
            false => Ok(Self(stops)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The part of a whole text before its stop string.
    pub fn cut<'t>(&self, text: &'t str) -> &'t str {
        &text[..self.find(text).unwrap_or(text.len())]
    }

    /// Cuts one text that comes in chunks.
    pub fn stream(&self) -> StopStream<'_> {
        StopStream {
            stops: self,
            held: String::new(),
            stopped: false,
        }
    }

    /// Where the stop string of `text` begins.
    fn find(&self, text: &str) -> Option<usize> {
        let found = |stop: &String| text.find(stop.as_str()).map(|at| (at + stop.len(), at));
        self.0.iter().filter_map(found).min().map(|(_, at)| at)
    }

    /// Where the end of `text` begins that may be the beginning of a stop string.
    fn doubtful(&self, text: &str) -> usize {
        let mut starts = text.char_indices().map(|(at, _)| at);
        let may_begin = |&at: &usize| self.0.iter().any(|stop| stop.starts_with(&text[at..]));
        starts.find(may_begin).unwrap_or(text.len())
    }
}

/// A text that comes in chunks, cut before its stop string; never shows a part of one.
#[derive(Debug)]
pub struct StopStream<'a> {
    stops: &'a StopStrings,
    /// Not shown yet: it may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

impl StopStream<'_> {
    /// Adds a chunk and returns the text that is now certain; nothing after a stop string.
    pub fn push(&mut self, chunk: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held += chunk;
        let certain = match self.stops.find(&self.held) {
            Some(at) => {
                self.stopped = true;
                self.held.truncate(at);
                at
            }
            None => self.stops.doubtful(&self.held),
        };
        self.held.drain(..certain).collect()
    }

    /// Characters that are not shown yet.
    pub fn held(&self) -> usize {
        self.held.chars().count()
    }

    /// A stop string has come.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The text still held back when the chunks end.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stops(texts: &[&str]) -> StopStrings {
        StopStrings::new(texts.iter().map(|&t| t.to_owned()).collect()).unwrap()
    }

    /// What each chunk shows, and at last the end.
    fn shown(stops: &StopStrings, chunks: &[&str]) -> Vec<String> {
        let mut stream = stops.stream();
        let mut shown: Vec<String> = chunks.iter().map(|chunk| stream.push(chunk)).collect();
        shown.push(stream.finish());
        shown
    }

    #[test]
    fn a_stop_string_over_several_chunks_is_never_seen() {
        let stops = stops(&["\nUser:"]);
        let chunks = ["Hi.", "\n", "Us", "er", ": more", " and more"];
        assert_eq!(shown(&stops, &chunks), ["Hi.", "", "", "", "", "", ""]);
    }

    #[test]
    fn what_only_began_like_a_stop_string_is_shown() {
        let stops = stops(&["\nUser:"]);
        assert_eq!(
            shown(&stops, &["a\nU", "S\n", "Us"]),
            ["a", "\nUS", "", "\nUs"]
        );
        // A beginning within a beginning.
        let stops = self::stops(&["aab"]);
        assert_eq!(
            shown(&stops, &["a", "a", "a", "b", "c"]),
            ["", "", "a", "", "", ""]
        );
    }

    #[test]
    fn the_stop_string_that_is_complete_first_counts() {
        assert_eq!(stops(&["abcd", "bc"]).cut("xabcd"), "xa");
        assert_eq!(
            stops(&["bc", "abc"]).cut("xabcd"),
            "x",
            "the longer of two that end together"
        );
        assert_eq!(stops(&["d", "b"]).cut("abcd"), "a");
        assert_eq!(stops(&["é", "日本"]).cut("caf日é"), "caf日");
    }

    #[test]
    fn without_stop_strings_nothing_is_held_back() {
        assert_eq!(
            shown(&StopStrings::default(), &["a", "🤖"]),
            ["a", "🤖", ""]
        );
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        assert_eq!(
            StopStrings::new(vec!["a".into(), String::new()]).unwrap_err(),
            EmptyStopString
        );
    }

    /// Few letters, of one to four bytes, so that stop strings occur and overlap.
    fn letters(length: std::ops::Range<usize>) -> impl Strategy<Value = String> {
        let letter = prop::sample::select(vec!['a', 'b', 'é', '日', '🤖']);
        prop::collection::vec(letter, length).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn chunks_show_what_the_whole_text_shows(
            chunks in prop::collection::vec(letters(0..4), 0..12),
            stops in prop::collection::vec(letters(1..4), 0..4),
        ) {
            let stops = StopStrings::new(stops).unwrap();
            let text = chunks.concat();
            let mut stream = stops.stream();
            let mut so_far = String::new();
            for chunk in &chunks {
                so_far += &stream.push(chunk);
                // Nothing that is shown is ever taken back.
                prop_assert!(stops.cut(&text).starts_with(&so_far));
            }
            prop_assert_eq!(stream.is_stopped(), stops.find(&text).is_some());
            so_far += &stream.finish();
            prop_assert_eq!(so_far, stops.cut(&text));
        }

        /// The rule itself, letter by letter: the text ends as soon as it ends with a stop string.
        #[test]
        fn a_text_is_cut_as_soon_as_it_ends_with_a_stop_string(
            text in letters(0..20),
            stops in prop::collection::vec(letters(1..4), 0..4),
        ) {
            let mut read = String::new();
            let mut expected = text.as_str();
            for letter in text.chars() {
                read.push(letter);
                let longest = stops.iter().filter(|s| read.ends_with(s.as_str())).map(String::len).max();
                if let Some(length) = longest {
                    expected = &text[..read.len() - length];
                    break;
                }
            }
            prop_assert_eq!(StopStrings::new(stops).unwrap().cut(&text), expected);
        }
    }
}
