//! A webhook receiver that answers as it is told and remembers what it was sent.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// One request as it came in.
pub(crate) struct Received {
    pub(crate) line: String,
    pub(crate) body: Vec<u8>,
    pub(crate) at: Instant,
    headers: HeaderMap,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// By the reference library, which also looks at the time.
    pub(crate) fn verify(&self, secret: &str) {
        let receiver = standardwebhooks::Webhook::new(secret).expect("a secret");
        receiver.verify(&self.body, &self.headers).expect("the signature is good");
    }
}

pub(crate) struct Receiver {
    address: SocketAddr,
    received: mpsc::UnboundedReceiver<Received>,
}

impl Receiver {
    /// Answers the first requests with these status lines (and headers), the others with 204.
    pub(crate) async fn start(answers: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut answers: VecDeque<String> = answers.iter().map(|text| (*text).to_owned()).collect();
        let (tell, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let status = answers.pop_front().unwrap_or_else(|| "204 No Content".into());
                let request = answer(stream, &status).await;
                if tell.send(request).is_err() {
                    return;
                }
            }
        });
        Self { address, received }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn next(&mut self) -> Received {
        self.received.recv().await.expect("the receiver runs")
    }

    /// Takes requests and answers none before it is told to; returns the address, a count of what has come, and what
    /// lets all answers go.
    pub(crate) async fn hang() -> (SocketAddr, watch::Receiver<usize>, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (came, seen) = watch::channel(0);
        let release = CancellationToken::new();
        let released = release.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                came.send_modify(|count| *count += 1);
                let released = released.clone();
                tokio::spawn(async move {
                    released.cancelled().await;
                    answer(stream, "204 No Content").await;
                });
            }
        });
        (address, seen, release)
    }

    /// Whether nothing has come that was not asked for with [`Receiver::next`].
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.received.try_recv().is_err()
    }
}

/// Reads one request and answers it; the connection ends with it.
async fn answer(stream: TcpStream, status: &str) -> Received {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.expect("a request line");
    let mut headers = HeaderMap::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.expect("a header");
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        let name: HeaderName = name.parse().expect("a name");
        headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    let length = headers["content-length"].to_str().expect("text").parse().expect("a number");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("a body");
    let reply = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(reply.as_bytes()).await.expect("answered");
    Received { line: line.trim_end().to_owned(), body, at: Instant::now(), headers }
}
