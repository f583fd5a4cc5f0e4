//! Whether streams and buckets are there, and as they are declared.

use super::{Check, grouped, told};
use jetlane::Bus;
use jetlane_bus::topology::{Drift, Settings, Storage};
use jetlane_schemas::subject::{STREAM_DEAD, STREAM_DONE, STREAM_LANES, STREAM_TASKS};
use std::time::Duration;

const TOPOLOGY: &str = "streams";
const DONE: &str = "completions";

/// What a kept completion costs, in bytes of the server's memory and as much disk (measured with
/// small outputs; facts of decision 6).
const COMPLETION_BYTES: u64 = 350;
/// The rate for which the cost is told, in tasks a second.
const RATE: u64 = 1_000;
const DAY_S: u64 = 24 * 60 * 60;

/// How the streams are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) replicas: usize,
    pub(super) storage: Storage,
}

/// Compares what is there with what is declared; tells how it is kept where all of it is there.
pub(super) async fn check(bus: &Bus) -> (Option<Kept>, Vec<Check>) {
    match compare(bus).await {
        Ok((settings, drifts)) if drifts.is_empty() => {
            let kept = Kept { replicas: settings.replicas, storage: settings.storage };
            (Some(kept), vec![Check::ok(TOPOLOGY, "all there, as declared"), completions(&settings)])
        }
        Ok((settings, drifts)) => {
            let kept = Kept { replicas: settings.replicas, storage: settings.storage };
            let missing: Vec<&str> = drifts.iter().filter(|d| is_missing(d)).map(|d| d.name.as_str()).collect();
            let mut checks: Vec<Check> = drifts.iter().filter(|d| !is_missing(d)).map(drifted).collect();
            checks.extend((!missing.is_empty()).then(|| absent(&missing)));
            (missing.is_empty().then_some(kept), checks)
        }
        Err(error) => {
            let help = "Give this account the right to read JetStream's streams.";
            (None, vec![Check::fail(TOPOLOGY, told(&error), help)])
        }
    }
}

/// What an owner may decide is taken as found; what differs then is a drift.
async fn compare(bus: &Bus) -> Result<(Settings, Vec<Drift>), jetlane_bus::Error> {
    let settings = chosen(&bus.drift(&Settings::default()).await?);
    let drifts = bus.drift(&settings).await?;
    Ok((settings, drifts))
}

/// The settings that explain what is found; one that is not told is at its default.
fn chosen(drifts: &[Drift]) -> Settings {
    let found = |stream: &str, setting: &str| {
        let drift = drifts.iter().find(|drift| drift.name == stream && drift.setting == setting);
        drift.map(|drift| drift.found.as_str())
    };
    let limit = |stream, setting, default| match found(stream, setting) {
        Some(text) => text.parse().unwrap_or(-1),
        None => default,
    };
    let number =
        |stream, setting, default: u64| found(stream, setting).and_then(|text| text.parse().ok()).unwrap_or(default);
    let default = Settings::default();
    Settings {
        replicas: found(STREAM_TASKS, "replicas").and_then(|text| text.parse().ok()).unwrap_or(default.replicas),
        storage: match found(STREAM_TASKS, "storage") {
            Some("Memory") => Storage::Memory,
            _ => default.storage,
        },
        done_age_s: number(STREAM_DONE, "max_age_s", default.done_age_s),
        done_bytes_max: limit(STREAM_DONE, "max_bytes", default.done_bytes_max),
        tasks_bytes_max: limit(STREAM_TASKS, "max_bytes", default.tasks_bytes_max),
        lanes_messages_max: limit(STREAM_LANES, "max_messages", default.lanes_messages_max),
        dead_age_days: number(STREAM_DEAD, "max_age_s", default.dead_age_days * DAY_S) / DAY_S,
        // It is off by default, and then only a stream that does it differs.
        done_republished: found(STREAM_DONE, "republish").is_some(),
    }
}

fn is_missing(drift: &Drift) -> bool {
    drift.found == "missing"
}

fn absent(names: &[&str]) -> Check {
    let help = "A dispatcher that runs makes what is missing within seconds: run doctor again, then read its log. If none runs, start one: `jetlane run dispatcher`.";
    Check::fail(TOPOLOGY, format!("missing: {}", names.join(", ")), help)
}

fn drifted(drift: &Drift) -> Check {
    let Drift { name, setting, wanted, found } = drift;
    let detail = format!("{name}: {setting} is {found}, declared is {wanted}");
    Check::fail(
        TOPOLOGY,
        detail,
        format!("Set it with `nats stream edit {name}`, or make the stream anew when it is empty."),
    )
}

/// What the age of completions costs: it is the horizon of "one completion a task".
fn completions(settings: &Settings) -> Check {
    let age = humantime::format_duration(Duration::from_secs(settings.done_age_s));
    let count = RATE.saturating_mul(settings.done_age_s);
    let megabytes = count.saturating_mul(COMPLETION_BYTES) / 1_000_000;
    let cost = format!(
        "kept for {age}: {} tasks/s are {} completions, {} MB of the server's memory and as much disk",
        grouped(RATE),
        grouped(count),
        grouped(megabytes)
    );
    let Some(bytes) = u64::try_from(settings.done_bytes_max).ok().filter(|bytes| *bytes > 0) else {
        return Check::ok(DONE, format!("{cost}; no limit of bytes"));
    };
    let rate = bytes / (COMPLETION_BYTES * settings.done_age_s.max(1));
    let limited = format!("{cost}; the limit of {} MB holds {} tasks/s", grouped(bytes / 1_000_000), grouped(rate));
    if rate > 0 {
        return Check::ok(DONE, limited);
    }
    Check::warn(DONE, limited, "Beyond the limit tasks wait: raise it, or keep completions for less long.")
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn drift(name: &str, setting: &'static str, found: &str) -> Drift {
        Drift { name: name.into(), setting, wanted: String::new(), found: found.into() }
    }

    #[test]
    fn what_an_owner_may_decide_is_taken_as_found() {
        let settings = chosen(&[
            drift(STREAM_TASKS, "replicas", "3"),
            drift(STREAM_LANES, "replicas", "3"),
            drift(STREAM_DONE, "max_age_s", "60"),
            drift(STREAM_DONE, "max_bytes", "1000"),
            drift(STREAM_DEAD, "max_age_s", "86400"),
            drift(STREAM_TASKS, "retention", "Limits"),
        ]);
        let wanted =
            Settings { replicas: 3, done_age_s: 60, done_bytes_max: 1_000, dead_age_days: 1, ..Settings::default() };
        assert_eq!(settings, wanted);
        assert_eq!(chosen(&[]), Settings::default());
    }

    #[test]
    fn the_cost_of_completions_is_told_in_bytes() {
        let check = completions(&Settings::default());
        assert_eq!(check.state, State::Ok);
        assert!(check.detail.contains("3,600,000 completions, 1,260 MB"), "{}", check.detail);
        let narrow = Settings { done_bytes_max: 1_000_000, ..Settings::default() };
        assert_eq!(completions(&narrow).state, State::Warn);
        let wide = Settings { done_bytes_max: 12_600_000_000, ..Settings::default() };
        assert!(completions(&wide).detail.ends_with("12,600 MB holds 10,000 tasks/s"));
    }

    #[test]
    fn a_drift_is_told_with_what_is_declared() {
        let check = drifted(&Drift { wanted: "120".into(), ..drift(STREAM_TASKS, "duplicate_window_s", "1") });
        assert_eq!(check.state, State::Fail);
        assert_eq!(check.detail, "JETLANE_TASKS: duplicate_window_s is 1, declared is 120");
    }
}
