//! Watches what a service needs of the broker, for its readiness: the connection, and the streams.

use crate::connection::Bus;
use futures::future::join_all;
use std::convert::Infallible;
use std::error::Error as _;
use std::future::pending;
use std::time::Duration;

/// How often the streams are probed: a lost stream is noticed within this time, for a request a stream.
pub const PROBE_EVERY: Duration = Duration::from_secs(2);

/// Reports whether the broker is connected: now, and at every change. Never returns.
pub async fn connection(bus: Bus, report: impl Fn(Result<(), String>)) -> Infallible {
    let mut connected = bus.connected();
    loop {
        let is_up = *connected.borrow_and_update();
        report(if is_up { Ok(()) } else { Err("the connection to NATS is lost".into()) });
        if connected.changed().await.is_err() {
            report(Err("the connection to NATS is closed".into()));
            return pending().await;
        }
    }
}

/// Reports whether these streams and buckets exist and answer: now, every [`PROBE_EVERY`], and after every reconnect.
/// Never returns.
pub async fn streams(bus: Bus, streams: &[&str], buckets: &[&str], report: impl Fn(Result<(), String>)) -> Infallible {
    let buckets = buckets.iter().map(|bucket| format!("KV_{bucket}"));
    let names: Vec<String> = streams.iter().map(ToString::to_string).chain(buckets).collect();
    let mut connected = bus.connected();
    loop {
        if *connected.borrow_and_update() {
            let faults = join_all(names.iter().map(|name| bus.fault_of(name))).await;
            let faults: Vec<String> = faults.into_iter().flatten().collect();
            report(if faults.is_empty() { Ok(()) } else { Err(faults.join(", ")) });
        } else {
            // What was found before may be gone with the server's data.
            report(Err("not known while NATS is not connected".into()));
        }
        tokio::select! {
            () = tokio::time::sleep(PROBE_EVERY) => {}
            Ok(()) = connected.changed() => {}
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
