//! A real Jaeger, asked by its own query API. Found, never built: tests/jaeger/build.sh does that.

use super::span::{self, Span};
use jetlane_bus::clock;
use jetlane_schemas::Micros;
use serde_json::Value;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How long Jaeger may take to start, and to show what it was sent.
const SHOWN_WITHIN: Duration = Duration::from_secs(15);
/// Jaeger says nothing by itself: it is asked this often.
const ASKED_EVERY: Duration = Duration::from_millis(50);
/// The most traces of one service that are looked through.
const TRACES_MAX: usize = 100;
/// Where tests/jaeger/build.sh leaves it, below the cache folder.
const CACHED: &str = "jaeger-v1.76.0/jaeger";
/// Where collectors take OTLP over HTTP.
const OTLP_PORT: u16 = 4318;

// $1 is the script. The pipe closes however this process ends; then Jaeger ends too.
const WATCHDOG: &str = r#""$1" 0 </dev/null & exec >/dev/null; cat; kill "$!""#;

/// A Jaeger, and where it is asked and told.
pub(super) struct Jaeger {
    http: reqwest::Client,
    query: String,
    otlp: String,
    /// The one that this test started. Held, never written.
    _own: Option<(Child, ChildStdin)>,
}

impl Jaeger {
    /// The one of JAEGER_URL, or one of its own where there is a program. `None` where there is neither.
    pub(super) async fn find() -> Option<Self> {
        let jaeger = match set("JAEGER_URL") {
            Some(query) => Self::at(query.trim_end_matches('/').to_owned()),
            None => Self::start(&program()?).await,
        };
        jaeger.until_asked("/api/v3/services", |_| Ok(())).await;
        Some(jaeger)
    }

    fn at(query: String) -> Self {
        let otlp = set("JAEGER_OTLP_URL").unwrap_or_else(|| {
            let mut url = reqwest::Url::parse(&query).expect("JAEGER_URL is a URL");
            url.set_port(Some(OTLP_PORT)).expect("an http URL has a port");
            url.origin().ascii_serialization()
        });
        Self { http: client(), query, otlp, _own: None }
    }

    async fn start(program: &Path) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../jaeger/start.sh");
        // What Jaeger says of itself is not worth a log, unless somebody asks for it.
        let stderr = if set("JETLANE_LOG").is_some() { Stdio::inherit() } else { Stdio::null() };
        let mut watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "jaeger", script])
            // With it the script has nothing to build.
            .env("JAEGER", program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("a shell starts");
        let alive = watchdog.stdin.take().expect("stdin was piped");
        let mut said = String::new();
        let mut stdout = BufReader::new(watchdog.stdout.take().expect("stdout was piped"));
        jetlane_testkit::soon(stdout.read_line(&mut said)).await.expect("the script says where Jaeger is");
        let places: Value =
            serde_json::from_str(&said).expect("start.sh says where, as JSON; JETLANE_LOG=warn says more");
        let place = |key: &str| places[key].as_str().expect("a URL").to_owned();
        Self { http: client(), query: place("query"), otlp: place("otlp_http"), _own: Some((watchdog, alive)) }
    }

    /// What to set OTEL_EXPORTER_OTLP_ENDPOINT to.
    pub(super) fn otlp(&self) -> &str {
        &self.otlp
    }

    /// Where a person looks at a trace.
    pub(super) fn page(&self, trace_id: &str) -> String {
        format!("{}/trace/{trace_id}", self.query)
    }

    /// Asks for the trace until it is as it should be.
    pub(super) async fn until(&self, trace_id: &str, check: impl Fn(&[Span]) -> Result<(), String>) {
        self.until_asked(&format!("/api/v3/traces/{trace_id}"), |answer| check(&span::of_answer(answer))).await;
    }

    /// Asks for the traces of a service since `begun` until this one is among them.
    pub(super) async fn until_found_by(&self, service: &str, begun: Micros, trace_id: &str) {
        let until = Micros(clock::now().0 + 1_000_000);
        let path = format!(
            "/api/v3/traces?query.service_name={service}&query.start_time_min={}&query.start_time_max={}\
             &query.num_traces={TRACES_MAX}",
            clock::rfc3339(begun),
            clock::rfc3339(until),
        );
        let found = |answer: &Value| {
            let spans = span::of_answer(answer);
            let is_it = |span: &Span| span.trace_id == trace_id && span.service() == service;
            if spans.iter().any(is_it) { Ok(()) } else { Err(format!("{service} is not found in trace {trace_id}")) }
        };
        self.until_asked(&path, found).await;
    }

    /// Asks again and again, and panics with what was wrong last when Jaeger's time is up.
    async fn until_asked(&self, path: &str, check: impl Fn(&Value) -> Result<(), String>) {
        let late = Instant::now() + SHOWN_WITHIN;
        let mut again = interval(ASKED_EVERY);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            again.tick().await;
            let wrong = match self.ask(path).await.and_then(|answer| check(&answer)) {
                Ok(()) => return,
                Err(wrong) => wrong,
            };
            assert!(Instant::now() < late, "{path}: {wrong}");
        }
    }

    /// No match is an error 404 at Jaeger's.
    async fn ask(&self, path: &str) -> Result<Value, String> {
        let failed = |error: reqwest::Error| error.to_string();
        let response = self.http.get(format!("{}{path}", self.query)).send().await.map_err(failed)?;
        let status = response.status();
        let body = response.bytes().await.map_err(failed)?;
        if !status.is_success() {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        serde_json::from_slice(&body).map_err(|error| error.to_string())
    }
}

/// Its TLS has no implementation of its own to fall back on.
fn client() -> reqwest::Client {
    let _chosen_before = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

fn set(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// Jaeger's program: named by JAEGER, on PATH, or in the cache.
fn program() -> Option<PathBuf> {
    if let Some(named) = set("JAEGER") {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "JAEGER={} is no program", named.display());
        return Some(named);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let cache = set("JETLANE_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| set("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("jetlane")));
    let cache = cache.or_else(|| set("HOME").map(|dir| Path::new(&dir).join(".cache/jetlane")));
    let on_path = env::split_paths(&path).map(|dir| dir.join("jaeger"));
    on_path.chain(cache.map(|dir| dir.join(CACHED))).find(|file| file.is_file())
}
