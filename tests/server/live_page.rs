//! The live page in headless Chromium, while a load runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::chromium::Page;
use crate::process::Served;

/// Nothing here takes that long, however busy the machine is.
const FOREVER: Duration = Duration::from_secs(120);

/// What the page says, in words and colours.
const SEEN: &str = r##"(() => {
  const text = id => document.getElementById(id).textContent;
  const body = getComputedStyle(document.body), root = document.documentElement;
  const canvas = document.getElementById("timeline"), { width, height } = canvas;
  const pixels = width * height ? canvas.getContext("2d").getImageData(0, 0, width, height).data : [];
  let picture = 0;
  for (const part of pixels) picture = (picture * 31 + part) | 0;
  return {
    connection: document.getElementById("connection").dataset.state,
    model: text("model"), about: text("about"), legend: text("legend"),
    output: Number(text("output").replaceAll(",", "")), rows: Number(text("rows")), queued: Number(text("queued")),
    kv: text("kv-more"), ttft: [...document.getElementById("ttft").cells].slice(1).map(cell => cell.textContent),
    forming: text("queued-more"), totals: text("totals"), words: text("timeline-words"), picture,
    table: document.querySelectorAll("#table tbody tr").length,
    scroll: root.scrollWidth, background: body.backgroundColor, ink: body.color,
  };
})()"##;

/// As many clients, each of which asks again when it has been answered, until this returns.
fn under_load<T>(served: &Served, clients: usize, then: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    // A failed assertion ends the clients, too.
    struct AtLast<'a>(&'a AtomicBool);
    impl Drop for AtLast<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        let _at_last = AtLast(&over);
        for client in 0..clients {
            let over = &over;
            let body = json!({
                "prompt": "Shall I compare", "max_tokens": 100 + 40 * client, "ignore_eos": true,
            });
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let events = served.stream("/v1/completions", &body).events();
                    assert!(!events.is_empty());
                }
            });
        }
        then()
    })
}

/// What the page shows once it `is` so.
fn once(page: &mut Page, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let seen = page.value(SEEN);
        if is(&seen) {
            return seen;
        }
        assert!(begin.elapsed() < FOREVER, "not {what}: {seen:#}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn visit(served: &Served, width: u32, dark: bool) -> Option<Page> {
    let mut page = Page::open()?;
    page.screen(width, 900, dark);
    page.visit(&format!("http://{}/", served.address));
    Some(page)
}

#[test]
fn a_load_is_seen_as_it_runs() {
    let served = Served::start(&["--max-batch-size=3"]);
    let Some(mut page) = visit(&served, 1200, false) else {
        return;
    };
    let rest = once(&mut page, "connected", |s| s["connection"] == "live");
    assert_eq!(rest["model"], "Batching batchlab-shakespeare");
    assert_eq!(
        rest["about"].as_str().unwrap().split(',').next(),
        Some("continuous")
    );
    assert_eq!((&rest["output"], &rest["rows"]), (&0.into(), &0.into()));
    under_load(&served, 5, || {
        let busy = once(&mut page, "busy", |s| {
            let words = s["words"].as_str().unwrap();
            s["queued"] == 2 && s["output"].as_u64() > Some(0) && words.contains("3 of 3 rows run")
        });
        once(&mut page, "moving", |s| s["picture"] != busy["picture"]);
        once(&mut page, "timed", |s| {
            s["ttft"].as_array().unwrap().iter().all(|p| p != "–")
        });
        once(&mut page, "counting", |s| {
            s["totals"]
                .as_str()
                .unwrap()
                .contains("Requests ended: length")
        });
        page.value("document.querySelector('#table summary').click()");
        once(&mut page, "a table", |s| s["table"].as_u64() >= Some(3));
        // It stands still, and says so, while the numbers go on.
        page.value("document.getElementById('pause').click()");
        let held = once(&mut page, "held", |s| {
            s["words"].as_str().unwrap().contains("held still")
        });
        once(&mut page, "going on in numbers", |s| {
            s["totals"] != held["totals"]
        });
        let still = page.value(SEEN);
        assert_eq!(still["picture"], held["picture"]);
    });
    once(&mut page, "at rest", |s| s["rows"] == 0 && s["output"] == 0);
    served.terminate();
    once(&mut page, "lost", |s| s["connection"] == "lost");
    assert_eq!(page.errors, Vec::<String>::new());
}

#[test]
fn a_batch_is_seen_as_it_forms_on_a_phone_in_the_dark() {
    let served = Served::start(&[
        "--policy=dynamic",
        "--max-batch-size=4",
        "--max-queue-delay-ms=100",
    ]);
    let Some(mut page) = visit(&served, 390, true) else {
        return;
    };
    under_load(&served, 6, || {
        once(&mut page, "forming", |s| {
            let forming = s["forming"].as_str().unwrap();
            forming.contains("of 4 in the next batch") && !forming.starts_with('0')
        });
        let seen = once(&mut page, "told why batches left", |s| {
            s["totals"].as_str().unwrap().contains("Batches left: ")
        });
        assert!(
            seen["legend"].as_str().unwrap().contains("idle"),
            "{seen:#}"
        );
        assert!(
            seen["scroll"].as_u64().unwrap() <= 390,
            "{}",
            seen["scroll"]
        );
        let colours = (&seen["background"], &seen["ink"]);
        assert_eq!(
            colours,
            (&"rgb(13, 17, 23)".into(), &"rgb(230, 237, 243)".into())
        );
    });
    assert_eq!(page.errors, Vec::<String>::new());
}
