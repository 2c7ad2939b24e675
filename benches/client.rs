//! What the client of `sweep --target` costs for a token: a scripted server in the same process streams
//! to 64 requests at once, each token a write of its own.
//!
//! `cargo bench --bench client`

#[allow(dead_code)]
#[path = "../tests/target/server.rs"]
mod server;

use std::sync::Arc;
use std::time::Duration;

use batchlab::clock::{Clock, WallClock};
use batchlab::model::Tokenizer;
use batchlab::sampling::Sampling;
use batchlab::scheduler::Padding;
use batchlab::sweep::{CellSpec, LoadSpec, PolicyKind, Service};
use batchlab::target::{Asked, Target, contact};
use batchlab::workload::{Arrivals, Ask, Load, RequestOptions};

use server::{Answer, Part, Server};

const STREAMS: usize = 64;
const TOKENS: usize = 1000;
/// Between the tokens of a stream; none: as fast as the client reads.
const PAUSES_US: [u64; 4] = [0, 100, 1000, 5000];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `cargo test --benches` runs it too, with other arguments.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    println!("pause µs     tok/s  tokens/chunk  client µs/token  busiest thread %  lag P99 ms");
    for pause_us in PAUSES_US {
        let server = Server::start(move |asked| paced(asked, Duration::from_micros(pause_us)));
        measure(&server, pause_us)?;
    }
    Ok(())
}

fn paced(asked: &serde_json::Value, pause: Duration) -> Answer {
    let whole = Answer::whole(asked);
    let parts = whole.parts.into_iter();
    Answer {
        parts: match pause.is_zero() {
            true => parts.collect(),
            false => parts.flat_map(|part| [Part::Pause(pause), part]).collect(),
        },
        ..whole
    }
}

fn measure(server: &Server, pause_us: u64) -> Result<(), Box<dyn std::error::Error>> {
    let tokenizer = Arc::new(Tokenizer::open(None)?.1);
    let clock = WallClock::start();
    let asked = Asked {
        address: server.url.parse()?,
        model: None,
        api_key: None,
        prompts: None,
        ignore_eos: true,
        prompt: vec![1],
    };
    let contact = contact(asked, &tokenizer, clock)?;
    let mut target = Target::open(&contact, None, tokenizer, clock)?;
    let options = RequestOptions {
        stop_tokens: vec![],
        sampling: Sampling::GREEDY,
        timeout: None,
    };
    let ask = Ask {
        prompt: vec![1; 16],
        output_len: TOKENS,
    };
    let load = Load::Closed {
        concurrency: STREAMS,
    };
    let arrivals = Arrivals::new(vec![ask; 2 * STREAMS], load, options, clock.now(), 0)?;
    let cell = CellSpec {
        policy: PolicyKind::Server,
        batch_size: STREAMS,
        window_ms: None,
        padding: Padding::Ragged,
        prompts: String::new(),
        output_len: String::new(),
        load: LoadSpec::Closed {
            concurrency: STREAMS,
        },
    };
    let begin = clock.now();
    let ran = target.run(&cell, arrivals, &mut |_, _| {})?;
    let seconds = (clock.now() - begin).as_secs_f64();
    let tokens: usize = ran.finished.iter().map(|r| r.token_times.len()).sum();
    let client = ran.client.ok_or("no client")?;
    println!(
        "{pause_us:8} {:9.0} {:13.2} {:16.2} {:17.1} {:11.2}",
        tokens as f64 / seconds,
        client.tokens_per_chunk.unwrap_or(0.0),
        client.cpu_s * 1e6 / tokens as f64,
        client.busiest_thread_percent,
        client.loop_lag_ms.map_or(0.0, |s| s.p99)
    );
    Ok(())
}
