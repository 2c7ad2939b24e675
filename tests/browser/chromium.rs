//! A page in headless Chromium, spoken to by the DevTools protocol.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

/// Nothing here takes that long, however busy the machine is.
const FOREVER: Duration = Duration::from_secs(120);

/// Ends with its owner.
struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Page {
    _browser: Browser,
    _profile: TempDir,
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    session: String,
    sent: u64,
    /// What the page's scripts threw or wrote as an error.
    pub errors: Vec<String>,
}

/// The program; none, with a printed reason, where there is no Chromium, which
/// BATCHLAB_REQUIRE_CHROMIUM=1 makes a failure.
fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|program| program.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("BATCHLAB_REQUIRE_CHROMIUM").is_none(),
            "BATCHLAB_REQUIRE_CHROMIUM is set and there is no Chromium"
        );
        eprintln!("skipped: no Chromium on this machine");
    }
    found
}

impl Page {
    /// An empty one.
    pub fn open() -> Option<Self> {
        let program = chromium()?;
        let profile = tempfile::tempdir().unwrap();
        let browser = Command::new(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-quic", "--disable-sync", "--no-first-run"])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args(["--remote-debugging-port=0", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut browser = Browser(browser);
        let mut log = BufReader::new(browser.0.stderr.take().unwrap()).lines();
        let address = log
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix("DevTools listening on ")?.to_owned()));
        let address = address.expect("Chromium says where it listens");
        // It goes on writing.
        std::thread::spawn(move || log.for_each(drop));
        let (mut socket, _) = tungstenite::connect(address).unwrap();
        if let MaybeTlsStream::Plain(stream) = socket.get_mut() {
            stream.set_read_timeout(Some(FOREVER)).unwrap();
        }
        let mut page = Self {
            _browser: browser,
            _profile: profile,
            socket,
            session: String::new(),
            sent: 0,
            errors: Vec::new(),
        };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = page.call("Target.attachToTarget", attach);
        page.session = attached["sessionId"].as_str().unwrap().to_owned();
        page.call("Runtime.enable", json!({}));
        Some(page)
    }

    pub fn screen(&mut self, width: u32, height: u32, dark: bool) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// Returns when it has loaded.
    pub fn visit(&mut self, url: &str) {
        let gone = self.call("Page.navigate", json!({"url": url}));
        assert_eq!(gone["errorText"], Value::Null, "{url}");
        let script = "[location.href, document.readyState]";
        let ask = json!({"expression": script, "returnByValue": true});
        let loaded = json!([url, "complete"]);
        let begin = Instant::now();
        // The page that is left may be gone when it is asked: no answer is none of its.
        while self
            .try_call("Runtime.evaluate", ask.clone())
            .is_none_or(|answer| answer["result"]["value"] != loaded)
        {
            assert!(begin.elapsed() < FOREVER, "{url} does not load");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The value of a JavaScript expression in the page; of a promise, what comes of it.
    pub fn value(&mut self, script: &str) -> Value {
        let ask = json!({"expression": script, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", ask);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{script}");
        answer["result"]["value"].clone()
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        let answer = self.try_call(method, params);
        answer.unwrap_or_else(|| panic!("{method} failed"))
    }

    fn try_call(&mut self, method: &str, params: Value) -> Option<Value> {
        self.sent += 1;
        let mut message = json!({"id": self.sent, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        self.socket
            .send(Message::text(message.to_string()))
            .unwrap();
        loop {
            let answer = self.hear();
            if answer["id"] == self.sent {
                return answer.get("result").cloned();
            }
        }
    }

    fn hear(&mut self) -> Value {
        let message = self.socket.read().unwrap();
        let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        let params = &message["params"];
        let failed = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => params["type"] == "error",
            _ => false,
        };
        if failed {
            self.errors.push(params.to_string());
        }
        message
    }
}
