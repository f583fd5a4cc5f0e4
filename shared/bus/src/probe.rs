//! Watches what a service needs of the broker, for its readiness: the connection, and the streams.

use crate::connection::Bus;
use futures::future::join_all;
use std::convert::Infallible;
use std::error::Error as _;
use std::time::Duration;

/// How often the streams are probed: a lost stream is noticed within this time, for a request a stream.
pub const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How often the state of the connection is read.
const CONNECTION_EVERY: Duration = Duration::from_millis(100);

/// Reports whether the broker is connected: now, and at every change. Never returns.
pub async fn connection(bus: Bus, report: impl Fn(Result<(), String>)) -> Infallible {
    loop {
        report(if bus.is_connected() { Ok(()) } else { Err("the connection to NATS is lost".into()) });
        tokio::time::sleep(CONNECTION_EVERY).await;
    }
}

/// Reports whether these streams and buckets exist and answer: now, every [`PROBE_EVERY`], and after every reconnect.
/// Never returns.
pub async fn streams(bus: Bus, streams: &[&str], buckets: &[&str], report: impl Fn(Result<(), String>)) -> Infallible {
    let buckets = buckets.iter().map(|bucket| format!("KV_{bucket}"));
    let names: Vec<String> = streams.iter().map(ToString::to_string).chain(buckets).collect();
    let mut connections = bus.connections();
    loop {
        connections.mark_unchanged();
        if bus.is_connected() {
            let faults = join_all(names.iter().map(|name| bus.fault_of(name))).await;
            let faults: Vec<String> = faults.into_iter().flatten().collect();
            report(if faults.is_empty() { Ok(()) } else { Err(faults.join(", ")) });
        } else {
            // What was found before may be gone with the server's data.
            report(Err("not known while NATS is not connected".into()));
        }
        tokio::select! {
            () = tokio::time::sleep(if bus.is_connected() { PROBE_EVERY } else { CONNECTION_EVERY }) => {}
            Ok(()) = connections.changed() => {}
        }
    }
}

impl Bus {
    /// Returns why a stream cannot be used; `None` where it can.
    async fn fault_of(&self, name: &str) -> Option<String> {
        match self.find_stream(name).await {
            Ok(Some(_)) => None,
            Ok(None) => Some(format!("{name} does not exist")),
            Err(error) => {
                let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                Some(format!("{name} does not answer ({cause})"))
            }
        }
    }
}
