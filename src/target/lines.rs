//! Lines of a stream that comes in pieces, wherever it was cut.

/// No server-sent event of a completion is nearly as long.
const LONGEST: usize = 1 << 20;

/// What is left of a line whose end has not come yet.
#[derive(Debug, Default)]
pub struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Hands every line that is whole to `each`, without its end.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            match self.rest.is_empty() {
                true => each(trimmed(line))?,
                false => {
                    self.rest.extend_from_slice(line);
                    each(trimmed(&self.rest))?;
                    self.rest.clear();
                }
            }
        }
        if self.rest.len() + bytes.len() > LONGEST {
            return Err(format!(
                "a line of its answer is longer than {LONGEST} bytes"
            ));
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// A last line without an end.
    pub fn finish(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let rest = std::mem::take(&mut self.rest);
        each(trimmed(&rest))
    }
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        let mut keep = |line: &[u8]| {
            all.push(String::from_utf8(line.into()).unwrap());
            Ok(())
        };
        for piece in pieces {
            lines.push(piece, &mut keep).unwrap();
        }
        lines.finish(&mut keep).unwrap();
        all
    }

    #[test]
    fn lines_are_the_same_wherever_they_are_cut() {
        let text = "data: é\r\n\r\ndata: b\n\ndata: [DONE]".as_bytes();
        let whole = read(&[text]);
        assert_eq!(whole, ["data: é", "", "data: b", "", "data: [DONE]"]);
        for at in 0..=text.len() {
            assert_eq!(read(&[&text[..at], &text[at..]]), whole, "cut at {at}");
        }
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(read(&single), whole);
    }

    #[test]
    fn a_line_without_end_is_an_error() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; 1 << 19];
        lines.push(&piece, |_| Ok(())).unwrap();
        lines.push(&piece, |_| Ok(())).unwrap();
        assert!(lines.push(b"x", |_| Ok(())).is_err());
    }
}
