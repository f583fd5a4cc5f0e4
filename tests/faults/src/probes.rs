//! Asks services for `/readyz` and `/livez`, as whoever restarts them does, and keeps what changes.

use crate::journal::{Event, Journal};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// How often a service is asked.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// What a service answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// Whether it is ready; `None` where nobody answers.
    pub ready: Option<bool>,
    /// Whether it is alive.
    pub live: Option<bool>,
    /// Why not.
    pub why: String,
}

/// Asks one service until it is dropped.
#[derive(Debug)]
pub struct Probe {
    /// The name of the service.
    pub process: String,
    port: u16,
    asking: AbortHandle,
}

impl Probe {
    /// Begins to ask.
    pub fn start(process: String, port: u16, journal: Arc<Journal>) -> Self {
        let name = process.clone();
        let asking = tokio::spawn(async move {
            let mut last = Answers::default();
            loop {
                let now = ask(port).await;
                if (now.ready, now.live) != (last.ready, last.live) {
                    let Answers { ready, live, why } = now.clone();
                    journal.write(Event::Health { process: name.clone(), ready, live, why });
                }
                last = now;
                tokio::time::sleep(ASK_EVERY).await;
            }
        });
        Self { process, port, asking: asking.abort_handle() }
    }

    /// What it answers now.
    pub async fn now(&self) -> Answers {
        ask(self.port).await
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

async fn ask(port: u16) -> Answers {
    let (ready, live) = (get(port, "/readyz").await, get(port, "/livez").await);
    let mut why: Vec<&str> = Vec::new();
    for answer in [&ready, &live] {
        why.extend(answer.as_ref().filter(|(ok, _)| !ok).map(|(_, body)| body.as_str()));
    }
    Answers { why: why.join("; "), ready: ready.as_ref().map(|(ok, _)| *ok), live: live.as_ref().map(|(ok, _)| *ok) }
}

/// Whether the answer is 200, and its text.
async fn get(port: u16, path: &str) -> Option<(bool, String)> {
    let answer = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)? == "200", body.trim().replace('\n', ", ")))
    };
    tokio::time::timeout(ANSWER_TIME_MAX, answer).await.ok().flatten()
}
