//! `jetlane doctor`: what is wrong here, and what to do about it. Makes and changes nothing.
//!
//! # Layout
//! - `server`: the server, its version, JetStream
//! - `monitor`: what the server tells of itself over HTTP: durability, clock
//! - `streams`: streams and buckets as they are declared
//! - `served`: types and queues that nobody serves
//! - `otlp`: where traces go

mod monitor;
mod otlp;
mod served;
mod server;
mod streams;

use crate::output::{Exit, Failure, Output, grouped, table};
use crate::reach::Nats;
use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should.
    Ok,
    /// Works, but with less than one may expect.
    Warn,
    /// Does not work.
    Fail,
}

/// One thing that was looked at. The names are a contract.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    check: &'static str,
    state: State,
    detail: String,
    /// What to do.
    help: Option<String>,
}

impl Check {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, state: State::Ok, detail: detail.into(), help: None }
    }

    fn warn(check: &'static str, detail: impl Into<String>, help: impl Into<String>) -> Self {
        Self { check, state: State::Warn, detail: detail.into(), help: Some(help.into()) }
    }

    fn fail(check: &'static str, detail: impl Into<String>, help: impl Into<String>) -> Self {
        Self { state: State::Fail, ..Self::warn(check, detail, help) }
    }
}

/// Looks at everything, and fails where something does not work.
pub(crate) async fn run(nats: &Nats, output: &Output) -> Result<Exit, Failure> {
    let (bus, mut checks) = server::connect(nats).await;
    if let Some(bus) = &bus {
        let monitored = monitor::read(&bus.server().name).await;
        let (kept, of_streams) = streams::check(bus).await;
        if let Some(kept) = &kept {
            checks.push(monitor::durability(&monitored, kept));
        }
        checks.extend(monitor::clock(&monitored));
        checks.extend(of_streams);
        if kept.is_some() {
            checks.extend(served::check(bus).await);
        }
    }
    checks.push(otlp::check().await);
    let broken = checks.iter().any(|check| check.state == State::Fail);
    output.data(&serde_json::json!({ "ok": !broken, "checks": checks }), || rows(&checks));
    Ok(if broken { Exit::Problems } else { Exit::Ok })
}

fn rows(checks: &[Check]) -> String {
    let rows = checks.iter().map(|check| {
        let state = match check.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        let help = check.help.clone().unwrap_or_default();
        [check.check.to_owned(), state.to_owned(), crate::result::plain(&check.detail), help]
    });
    table(["check", "state", "detail", "what to do"], rows)
}

/// An error with its causes, in one line.
fn told(error: &dyn std::error::Error) -> String {
    Failure::of(Exit::Error, error).message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_stands_in_the_table_with_what_to_do() {
        let text = rows(&[Check::ok("server", "2.15.1"), Check::fail("queues", "no leader", "start one")]);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert!(
            lines[0].starts_with("CHECK") && lines[2].contains("FAIL") && lines[2].ends_with("start one"),
            "{text}"
        );
    }
}
