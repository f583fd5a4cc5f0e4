//! A webhook's receiver: answers with what it was told to, and keeps what came.

use jetlane_testkit::soon;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Requests that wait to be looked at.
const WAITING_MAX: usize = 64;

/// One request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    /// By their names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// A server of HTTP on loopback.
pub(crate) struct Receiver {
    pub(crate) url: String,
    requests: mpsc::Receiver<Request>,
    serving: AbortHandle,
}

impl Receiver {
    /// Answers with these statuses, one after the other, and then with 200.
    pub(crate) async fn start(statuses: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}/hook?a=1", listener.local_addr().expect("bound"));
        let statuses = Arc::new(Mutex::new(statuses.iter().rev().copied().collect::<Vec<u16>>()));
        let (sender, requests) = mpsc::channel(WAITING_MAX);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&statuses), sender.clone()));
            }
        });
        Self { url, requests, serving: serving.abort_handle() }
    }

    /// The next request.
    pub(crate) async fn next(&mut self) -> Request {
        soon(self.requests.recv()).await.expect("it serves")
    }

    /// Whether a request has come that nobody looked at.
    pub(crate) fn has_more(&mut self) -> bool {
        self.requests.try_recv().is_ok()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(stream: TcpStream, statuses: Arc<Mutex<Vec<u16>>>, requests: mpsc::Sender<Request>) {
    let mut stream = BufReader::new(stream);
    // One connection may bring several; it ends with the client.
    while let Some(request) = read(&mut stream).await {
        let status = statuses.lock().expect("nobody panics with it").pop().unwrap_or(200);
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
        if requests.send(request).await.is_err() || stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let line = read_line(stream).await?;
    let mut headers = BTreeMap::new();
    loop {
        let header = read_line(stream).await?;
        match header.split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { line, headers, body: String::from_utf8(body).ok()? })
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await.ok()?;
    (read > 0).then(|| line.trim_end().to_owned())
}
