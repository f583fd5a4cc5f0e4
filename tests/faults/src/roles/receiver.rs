//! Takes webhooks over HTTP; asks for one in twenty a second time, as a busy receiver does.

use crate::journal::{Event, Journal};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// One of so many requests is answered with "busy".
const BUSY_EVERY: u64 = 20;
/// The largest body that is read, in bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Takes webhooks until it is told to end.
pub(super) async fn run(
    receiver: &super::Receiver,
    journal: Arc<Journal>,
    drain: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", receiver.port)).await?;
    let number = Arc::new(AtomicU64::new(0));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.cancelled() => return Ok(()),
        };
        let (stream, _) = accepted?;
        let (journal, number) = (Arc::clone(&journal), Arc::clone(&number));
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            while take(&mut stream, &journal, &number).await.is_some() {}
        });
    }
}

/// Takes one request; `None` once the connection ends.
async fn take(stream: &mut BufReader<TcpStream>, journal: &Journal, number: &AtomicU64) -> Option<()> {
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok().filter(|length| *length <= BODY_BYTES_MAX)?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let busy = number.fetch_add(1, Ordering::Relaxed) % BUSY_EVERY == BUSY_EVERY - 1;
    if !busy {
        let body: Value = serde_json::from_slice(&body).ok()?;
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        journal.write(Event::Callback { id: text("id"), task_type: text("type"), outcome: text("outcome") });
    }
    let answer = if busy {
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
    } else {
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    };
    stream.get_mut().write_all(answer.as_bytes()).await.ok()
}
