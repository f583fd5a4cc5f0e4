//! When a server can be used: it listens, and it is ours.

use serde::Deserialize;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

/// The ports to choose from. All lie below those that systems give to outgoing connections: a client
/// that reconnects to a port of its own range can connect to itself, and so keep the port.
const PORTS: std::ops::Range<u16> = 10_000..30_000;
/// How many ports are looked at before giving up.
const PORTS_TRIED_MAX: usize = 100;
/// How long an open port may take to say who it is.
const INFO_TIME_MAX: Duration = Duration::from_secs(1);
/// The longest first line that is read, in bytes.
const INFO_BYTES_MAX: u64 = 64 << 10;
/// The first and the longest pause between two looks.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// A port that nobody listens on right now.
pub(super) fn free_port() -> Option<u16> {
    (0..PORTS_TRIED_MAX).map(|_| PORTS.start + random() % PORTS.len() as u16).find(|port| is_free(*port))
}

/// Whether a server could listen on the port right now.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// 16 bits that differ from call to call and between processes.
pub(super) fn random() -> u16 {
    RandomState::new().hash_one(0u8) as u16
}

/// Returns once the server of this name answers on the port. The caller bounds the time.
pub(super) async fn until_ready(port: u16, name: &str) {
    let mut pause = PAUSE;
    while tokio::time::timeout(INFO_TIME_MAX, name_at(port)).await.ok().flatten().as_deref() != Some(name) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The name of the server that answers on the port.
async fn name_at(port: u16) -> Option<String> {
    #[derive(Deserialize)]
    struct Info {
        server_name: String,
    }
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    let mut line = String::new();
    BufReader::new(stream.take(INFO_BYTES_MAX)).read_line(&mut line).await.ok()?;
    let info: Info = serde_json::from_str(line.strip_prefix("INFO ")?).ok()?;
    Some(info.server_name)
}
