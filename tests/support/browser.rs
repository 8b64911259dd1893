//! Headless Chromium, driven over the DevTools protocol.
//!
//! Speaks through a pair of pipes, which needs neither a port nor a WebSocket. Every wait has a limit.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use tempfile::TempDir;

use super::wait::eventually;

/// Longest wait for an answer of the browser, its start included.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for a page to look as a test wants it.
pub const PAGE_LIMIT: Duration = Duration::from_secs(40);
/// What the browser is called, by distribution.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// One browser with one page.
pub struct Browser {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    last_id: u64,
    /// What the page's console holds of errors and warnings, and exceptions that nobody caught.
    pub problems: Vec<String>,
    /// The address of every request that the page made.
    pub requested: Vec<String>,
    _profile: TempDir,
}

/// Where the browser is, if this machine has one.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    NAMES.iter().flat_map(|name| places.iter().map(move |dir| dir.join(name))).find(|file| file.exists())
}

impl Browser {
    pub fn start(program: &Path) -> Self {
        let profile = tempfile::Builder::new().prefix("vaultdb-test-browser-").tempdir().unwrap();
        // The protocol is on the descriptors 3 and 4, which a shell can hand on.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >&2", "sh"])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"])
            .args(["--disable-dev-shm-usage", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (tell, messages) = mpsc::channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            // Ends with the browser, or with whoever listens.
            while output.read_until(0, &mut message).is_ok_and(|count| count > 0) {
                message.pop();
                let parsed = serde_json::from_slice(&message).expect("the protocol is JSON");
                if tell.send(parsed).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            child,
            input,
            messages,
            session: None,
            last_id: 0,
            problems: Vec::new(),
            requested: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// One command and its answer; what the page does meanwhile is noted.
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        self.input.write_all(format!("{command}\0").as_bytes()).expect("the browser listens");
        let end = Instant::now() + ANSWER_LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left).unwrap_or_else(|e| panic!("{method}: {e}"));
            if message["id"] == self.last_id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        let params = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => self.problems.push(params["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" if params["type"] != "log" => self.problems.push(params.to_string()),
            "Log.entryAdded" if params["entry"]["level"] != "verbose" => {
                self.problems.push(params["entry"].to_string());
            }
            "Network.requestWillBeSent" => {
                self.requested.push(params["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            _ => {}
        }
    }

    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// The value of a JavaScript expression.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until the expression is true; says what `shown` was when it never is.
    pub fn wait(&mut self, what: &str, expression: &str, shown: &str) {
        eventually(what, PAGE_LIMIT, || match self.eval(expression) {
            Value::Bool(true) => Ok(()),
            other => Err(format!("{other}; {}", self.eval(shown))),
        });
    }

    /// Sets the size of the page's window, in CSS pixels.
    pub fn size(&mut self, width: u32, height: u32) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// `light` or `dark`; without motion, so that what is measured stands still.
    pub fn scheme(&mut self, scheme: &str) {
        let features = json!([
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    pub fn press_tab(&mut self) {
        for kind in ["rawKeyDown", "keyUp"] {
            let key = json!({"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9});
            self.call("Input.dispatchKeyEvent", key);
        }
    }

    /// The page's upper part, as wide as the window and `height` high, as PNG.
    pub fn screenshot(&mut self, width: u32, height: u32) -> Vec<u8> {
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let params = json!({"format": "png", "clip": clip, "captureBeyondViewport": true});
        let shot = self.call("Page.captureScreenshot", params);
        decode_base64(shot["data"].as_str().unwrap())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Either may fail only because the process is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0u32, |bits, c| bits << 6 | u32::from(value(*c)));
        let shifted = (bits << (6 * (4 - four.len()) + 8)).to_be_bytes();
        bytes.extend_from_slice(&shifted[..four.len() * 6 / 8]);
    }
    bytes
}
