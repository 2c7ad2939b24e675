//! An HTTP server that answers completions by a script.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// How a completion is answered.
pub struct Answer {
    pub status: u16,
    pub parts: Vec<Part>,
}

pub enum Part {
    /// A piece of the body, sent by itself.
    Bytes(Vec<u8>),
    Pause(Duration),
    /// The connection ends in the middle of the answer.
    Close,
}

type Script = dyn Fn(&Value) -> Answer + Send + Sync;

/// A running server; its threads end with the test's process.
pub struct Server {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<Script>,
    asked: Mutex<Vec<Value>>,
    authorization: Mutex<Vec<Option<String>>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Server {
    pub fn start(script: impl Fn(&Value) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            script: Box::new(script),
            asked: Mutex::default(),
            authorization: Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let served = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, served) = (stream.unwrap(), Arc::clone(&served));
                thread::spawn(move || serve(stream, &served));
            }
        });
        Self { url, shared }
    }

    /// The completions that were asked for, in order.
    pub fn asked(&self) -> Vec<Value> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// The authorization of every request, `/v1/models` among them.
    pub fn authorization(&self) -> Vec<Option<String>> {
        self.shared.authorization.lock().unwrap().clone()
    }

    /// Completions that ran at the same time, at most.
    pub fn most_at_once(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, shared: &Shared) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some((path, authorization, body)) = request(&mut reader) {
        shared.authorization.lock().unwrap().push(authorization);
        let answer = match path.as_str() {
            "/v1/models" => Answer::json(200, &json!({"data": [{"id": "scripted"}]})),
            "/v1/completions" => {
                let body: Value = serde_json::from_slice(&body).unwrap();
                let running = 1 + shared.running.fetch_add(1, Ordering::SeqCst);
                shared.most.fetch_max(running, Ordering::SeqCst);
                let answer = (shared.script)(&body);
                shared.asked.lock().unwrap().push(body);
                answer
            }
            _ => Answer::json(404, &json!({"error": {"message": "no such path"}})),
        };
        // Before its client can know: it may ask again at once.
        let before_end = || {
            if path == "/v1/completions" {
                shared.running.fetch_sub(1, Ordering::SeqCst);
            }
        };
        if send(&mut writer, answer, before_end).is_err() {
            return;
        }
    }
}

/// Path, authorization and body. None: the client has gone.
fn request(reader: &mut BufReader<TcpStream>) -> Option<(String, Option<String>, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
    let path = line.split(' ').nth(1)?.to_string();
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_string()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, authorization, body))
}

fn send(writer: &mut TcpStream, answer: Answer, before_end: impl Fn()) -> std::io::Result<()> {
    write!(
        writer,
        "HTTP/1.1 {} -\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        answer.status
    )?;
    let mut parts = answer.parts.into_iter();
    while let Some(part) = parts.next() {
        if parts.len() == 0 {
            before_end();
        }
        match part {
            Part::Bytes(bytes) => {
                let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
                chunk.extend(bytes);
                chunk.extend(b"\r\n");
                writer.write_all(&chunk)?;
            }
            Part::Pause(time) => thread::sleep(time),
            Part::Close => {
                writer.shutdown(std::net::Shutdown::Both)?;
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
        }
    }
    writer.write_all(b"0\r\n\r\n")
}

impl Answer {
    pub fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            parts: vec![Part::Bytes(body.to_string().into_bytes())],
        }
    }

    pub fn refusal(status: u16, message: &str) -> Self {
        Self::json(status, &json!({"error": {"message": message}}))
    }

    /// Everything that was asked for, token by token, as vLLM answers.
    pub fn whole(asked: &Value) -> Self {
        let tokens = asked["max_tokens"].as_u64().unwrap() as usize;
        Self::of(&events(asked, tokens, "length"))
    }

    /// Each event by itself.
    pub fn of(events: &[String]) -> Self {
        let parts = events.iter().map(|e| Part::Bytes(e.clone().into_bytes()));
        Self {
            status: 200,
            parts: parts.collect(),
        }
    }

    /// The same bytes in pieces of `size`.
    pub fn cut(events: &[String], size: usize) -> Self {
        let bytes = events.concat().into_bytes();
        Self {
            status: 200,
            parts: bytes.chunks(size).map(|c| Part::Bytes(c.into())).collect(),
        }
    }
}

/// The events of an answer of `tokens` tokens, with the counts that were asked for.
pub fn events(asked: &Value, tokens: usize, reason: &str) -> Vec<String> {
    let options = &asked["stream_options"];
    let each = options["continuous_usage_stats"] == true;
    let usage = |n: usize| json!({"prompt_tokens": prompt_len(asked), "completion_tokens": n});
    let event = |value: Value| format!("data: {value}\n\n");
    let mut all: Vec<String> = (1..=tokens)
        .map(|n| {
            let end = (n == tokens).then_some(reason);
            let mut value =
                json!({"choices": [{"index": 0, "text": " né\n", "finish_reason": end}]});
            if each {
                value["usage"] = usage(n);
            }
            event(value)
        })
        .collect();
    if options["include_usage"] == true {
        all.push(event(json!({"choices": [], "usage": usage(tokens)})));
    }
    all.push("data: [DONE]\n\n".into());
    all
}

fn prompt_len(asked: &Value) -> usize {
    match &asked["prompt"] {
        Value::Array(ids) => ids.len(),
        text => text.as_str().unwrap().split_whitespace().count(),
    }
}
