//! HTTP/1.1 by hand, so that a test sees every byte and may misbehave.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

type Headers = Vec<(String, String)>;

/// A whole answer.
pub struct Answer {
    pub status: u16,
    headers: Headers,
    body: Vec<u8>,
}

/// An answer as it comes.
pub struct Stream {
    pub status: u16,
    headers: Headers,
    body: BufReader<Body>,
}

/// A body whose length is known, or one in chunks.
struct Body {
    from: BufReader<TcpStream>,
    /// Of the body, or of the chunk.
    left: u64,
    more_chunks: bool,
}

/// A connection on which a test writes what it likes.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    let patience = Some(Duration::from_secs(120));
    stream.set_read_timeout(patience).unwrap();
    stream
}

/// A request's head, with these header lines besides.
pub fn head(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n")
}

pub fn send(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    Stream::open(address, method, path, headers, body).whole()
}

impl Stream {
    pub fn open(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Self {
        let headers = format!("content-length: {}\r\n{headers}", body.len());
        let mut stream = connect(address);
        let request = [head(method, path, &headers).as_bytes(), body].concat();
        stream.write_all(&request).unwrap();
        Self::read(stream)
    }

    /// Reads an answer's head.
    pub fn read(stream: TcpStream) -> Self {
        let mut from = BufReader::new(stream);
        let first = line(&mut from).unwrap();
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {first:?}"));
        let mut headers = Headers::new();
        while let Some((name, value)) = line(&mut from).unwrap().split_once(": ") {
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let length = header(&headers, "content-length").map_or(0, |n| n.parse().unwrap());
        let more_chunks = header(&headers, "transfer-encoding").is_some();
        let body = Body {
            from,
            left: length,
            more_chunks,
        };
        Self {
            status,
            headers,
            body: BufReader::new(body),
        }
    }

    /// The next event's data, which is whole UTF-8; none at the answer's end.
    pub fn event(&mut self) -> Option<String> {
        let data = line(&mut self.body).unwrap();
        if data.is_empty() {
            return None;
        }
        assert_eq!(line(&mut self.body).unwrap(), "", "an event is one line");
        Some(data.strip_prefix("data: ").unwrap().to_owned())
    }

    /// The events that are left but for the last, `[DONE]`, which must come.
    pub fn events(mut self) -> Vec<Value> {
        assert_eq!(self.status, 200);
        let mut events = Vec::new();
        while let Some(event) = self.event() {
            if event == "[DONE]" {
                assert_eq!(self.event(), None);
                return events;
            }
            events.push(serde_json::from_str(&event).unwrap());
        }
        panic!("no [DONE] after {events:?}");
    }

    pub fn whole(mut self) -> Answer {
        let mut body = Vec::new();
        self.body.read_to_end(&mut body).unwrap();
        Answer {
            status: self.status,
            headers: self.headers,
            body,
        }
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// Its error, in OpenAI's shape.
    pub fn error(&self) -> Value {
        let error = self.json()["error"].clone();
        let names: Vec<_> = error.as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["message", "type", "param", "code"]);
        error
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && self.more_chunks {
            let size = line(&mut self.from)?;
            self.left = u64::from_str_radix(&size, 16).map_err(|_| broken())?;
            if self.left == 0 {
                self.more_chunks = false;
                line(&mut self.from)?;
            }
        }
        let read = self.from.by_ref().take(self.left).read(into)?;
        if read == 0 && self.left > 0 {
            return Err(broken());
        }
        self.left -= read as u64;
        if self.left == 0 && self.more_chunks {
            line(&mut self.from)?;
        }
        Ok(read)
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the answer broke off")
}

/// Without its end; empty at the stream's end, too.
fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn header<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    let of = |(known, value): &'h (String, String)| (known == name).then_some(value.as_str());
    headers.iter().find_map(of)
}

/// The texts of a whole answer's choices.
pub fn texts(answer: &Value) -> Vec<&str> {
    let choices = answer["choices"].as_array().unwrap().iter();
    choices
        .map(|choice| {
            let text = choice.get("text").unwrap_or(&choice["message"]["content"]);
            text.as_str().unwrap()
        })
        .collect()
}

/// The texts of the choices that events tell piece by piece.
pub fn streamed_texts(events: &[Value]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for event in events {
        for choice in event["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            texts.resize(texts.len().max(index + 1), String::new());
            let text = choice.get("text").unwrap_or(&choice["delta"]["content"]);
            texts[index] += text.as_str().unwrap_or_default();
        }
    }
    texts
}
