//! What only the server's HTTP monitoring tells: when it writes to the disk for good, and its clock.

use super::streams::Kept;
use super::{Check, told};
use jetlane_bus::clock;
use jetlane_bus::topology::Storage;
use jetlane_schemas::Micros;
use jetlane_service::egress::{Client, Policy, Request};
use serde::Deserialize;
use std::time::Duration;

/// Names the monitoring address, such as `http://nats:8222`.
const MONITOR_URL: &str = "JETLANE_MONITOR_URL";
/// Where a server on this machine usually has its own.
const USUAL_URL: &str = "http://127.0.0.1:8222";
/// How long the answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Clocks further apart than this make deadlines and waits look wrong.
const SKEW_MAX: Duration = Duration::from_millis(500);

const DURABILITY: &str = "durability";
const CLOCK: &str = "clock";

/// What the server told, and when it was asked.
#[derive(Debug)]
pub(super) struct Monitored {
    varz: Varz,
    asked: Micros,
    answered: Micros,
}

#[derive(Debug, Deserialize)]
struct Varz {
    server_name: String,
    now: String,
    jetstream: JetStream,
}

#[derive(Debug, Deserialize)]
struct JetStream {
    config: Option<Config>,
}

#[derive(Debug, Deserialize)]
struct Config {
    /// In nanoseconds.
    #[serde(default)]
    sync_interval: u64,
    #[serde(default)]
    sync_always: bool,
}

/// Asks the monitoring of the server of this name; otherwise why it is not known.
pub(super) async fn read(server_name: &str) -> Result<Monitored, String> {
    let named = std::env::var(MONITOR_URL).ok().filter(|url| !url.is_empty());
    let url = named.clone().unwrap_or_else(|| USUAL_URL.into());
    let asked = clock::calendar();
    let varz = ask(&url).await.map_err(|why| match named {
        Some(_) => format!("{MONITOR_URL} ({url}): {why}"),
        None => format!("set {MONITOR_URL} to the server's monitoring address; nothing answers at {USUAL_URL}"),
    })?;
    // Somebody who names an address may mean another server of the same cluster.
    if named.is_none() && varz.server_name != server_name {
        return Err(format!("set {MONITOR_URL} to the server's monitoring address; {USUAL_URL} is another server's"));
    }
    Ok(Monitored { varz, asked, answered: clock::calendar() })
}

async fn ask(url: &str) -> Result<Varz, String> {
    let client = Client::new(Policy::AnyAddress).map_err(|error| told(&error))?;
    let request =
        Request { timeout: ANSWER_TIME_MAX, ..Request::new("GET", format!("{}/varz", url.trim_end_matches('/'))) };
    let answer = client.send(request).await.map_err(|error| told(&error))?;
    if answer.status != 200 {
        return Err(format!("it answers {}", answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|error| format!("it does not answer as nats-server does: {error}"))
}

/// Which guarantee holds for what was acknowledged.
pub(super) fn durability(monitored: &Result<Monitored, String>, kept: &Kept) -> Check {
    if kept.storage == Storage::Memory {
        return Check::warn(
            DURABILITY,
            "streams are kept in memory: what was acknowledged is lost with the server",
            "For anything but experiments, make the streams anew on disk.",
        );
    }
    let copies = match kept.replicas {
        0 | 1 => "one copy: it is lost with its disk".to_owned(),
        copies => format!("{copies} copies: the loss of fewer than half of the servers loses nothing"),
    };
    let config = match monitored {
        Ok(monitored) => monitored.varz.jetstream.config.as_ref(),
        Err(why) => {
            let detail = format!("{copies}; flush unknown: the server's default is every 2 minutes");
            return Check::warn(DURABILITY, detail, why.clone());
        }
    };
    match config {
        None => {
            Check::warn(DURABILITY, "the server tells nothing of JetStream", "Ask the server that holds the streams.")
        }
        Some(config) if config.sync_always => {
            Check::ok(DURABILITY, format!("synced before each acknowledgement: a power cut loses nothing; {copies}"))
        }
        Some(config) => {
            let every = humantime::format_duration(Duration::from_nanos(config.sync_interval));
            let power = if kept.replicas > 1 { "a power cut of all servers at once" } else { "a power cut" };
            let detail = format!("flushed every {every}: {power} can lose what was acknowledged since; {copies}");
            Check::warn(
                DURABILITY,
                detail,
                "For production: `sync_interval: always` in the server's jetstream { }, and three replicas.",
            )
        }
    }
}

/// How far the clocks are apart, where the server's is known.
pub(super) fn clock(monitored: &Result<Monitored, String>) -> Option<Check> {
    let monitored = monitored.as_ref().ok()?;
    let theirs = clock::parse_rfc3339(&monitored.varz.now)?;
    // It was read somewhere between question and answer.
    let ahead = theirs.0.saturating_sub(monitored.answered.0);
    let behind = monitored.asked.0.saturating_sub(theirs.0);
    let skew = Duration::from_micros(ahead.max(behind));
    if skew <= SKEW_MAX {
        return Some(Check::ok(CLOCK, format!("within {} ms of the server's", skew.as_millis().max(1))));
    }
    let place = if ahead > 0 { "ahead of" } else { "behind" };
    let detail = format!("the server's clock is {} ms {place} this machine's", skew.as_millis());
    Some(Check::warn(CLOCK, detail, "Run NTP on both: deadlines and measured waits are off by as much."))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn monitored(jetstream: &str, now: &str) -> Result<Monitored, String> {
        let json = format!(r#"{{"server_name":"n","now":"{now}","jetstream":{jetstream},"cores":2}}"#);
        let varz = serde_json::from_str(&json).expect("as the server writes it");
        let at = clock::parse_rfc3339("2026-01-01T00:00:00Z").expect("valid");
        Ok(Monitored { varz, asked: at, answered: Micros(at.0 + 2_000) })
    }

    fn told(jetstream: &str, replicas: usize, storage: Storage) -> Check {
        durability(&monitored(jetstream, "2026-01-01T00:00:00Z"), &Kept { replicas, storage })
    }

    #[test]
    fn only_a_server_that_syncs_before_it_acknowledges_survives_a_power_cut() {
        let always = r#"{"config":{"sync_interval":120000000000,"sync_always":true}}"#;
        let default = r#"{"config":{"sync_interval":120000000000}}"#;
        assert_eq!(told(always, 1, Storage::File).state, State::Ok);
        let flushed = told(default, 3, Storage::File);
        assert_eq!(flushed.state, State::Warn);
        assert!(flushed.detail.contains("every 2m:") && flushed.detail.contains("3 copies"), "{}", flushed.detail);
        assert_eq!(told(always, 1, Storage::Memory).state, State::Warn);
        assert_eq!(told("{}", 1, Storage::File).state, State::Warn);
    }

    #[test]
    fn where_the_flush_is_not_known_the_default_is_told_and_how_to_find_out() {
        let kept = Kept { replicas: 1, storage: Storage::File };
        let check = durability(&Err(format!("set {MONITOR_URL}")), &kept);
        assert_eq!(check.state, State::Warn);
        assert!(check.detail.contains("every 2 minutes") && check.help.expect("said").contains(MONITOR_URL));
    }

    #[test]
    fn clocks_that_are_apart_are_told_with_the_direction() {
        let at = |now| clock(&monitored("{}", now)).expect("known");
        assert_eq!(at("2026-01-01T00:00:00.001Z").state, State::Ok);
        assert!(at("2026-01-01T00:00:03Z").detail.contains("ahead of"));
        assert!(at("2025-12-31T23:59:57Z").detail.contains("3000 ms behind"));
        assert_eq!(clock(&Err("unknown".into())), None);
    }
}
