//! Data on stdout, talk on stderr, and what the exit codes mean.

use crate::args::Format;
use serde::Serialize;
use std::fmt;
use std::process::ExitCode;

/// How a command ended. The numbers are a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// As it should.
    Ok = 0,
    /// Otherwise than all the below.
    Error = 1,
    /// The words were wrong.
    Usage = 2,
    /// There is no such task or type.
    NotFound = 3,
    /// The task failed, was rejected or expired.
    TaskFailed = 4,
    /// The time to wait was up.
    TimedOut = 5,
    /// The task was cancelled.
    TaskCancelled = 6,
    /// No server answers, or no leader of the queue.
    Unreachable = 7,
    /// It was refused.
    Refused = 8,
    /// Doctor found problems.
    Problems = 9,
    /// Interrupted by a signal.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed, and what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string(), help: None }
    }

    /// An error with its chain of causes in one line.
    pub(crate) fn of(exit: Exit, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = cause.source();
        }
        Self { exit, message, help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl From<jetlane::Error> for Failure {
    fn from(error: jetlane::Error) -> Self {
        use jetlane::{Error, Outcome};
        let exit = match &error {
            Error::Connect(jetlane_bus::Error::Address { .. } | jetlane_bus::Error::Credentials { .. }) => Exit::Usage,
            Error::Connect(_) | Error::Closed { .. } | Error::Unanswered { .. } => Exit::Unreachable,
            Error::Name(_) | Error::Option(_) => Exit::Usage,
            Error::Waited { .. } => Exit::TimedOut,
            Error::Task(completion) if completion.outcome == Outcome::Cancelled => Exit::TaskCancelled,
            Error::Task(_) => Exit::TaskFailed,
            Error::Submit { .. } | Error::Cancel { .. } | Error::TooLate { .. } => Exit::Refused,
            _ => Exit::Error,
        };
        Self::of(exit, &error)
    }
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints data: as JSON, or as the table that is made only then.
    pub(crate) fn data<T: Serialize>(&self, data: &T, table: impl FnOnce() -> String) {
        if self.is_json() {
            self.json(data);
        } else {
            line(&table());
        }
    }

    /// Prints data as one line of JSON.
    pub(crate) fn json<T: Serialize>(&self, data: &T) {
        match serde_json::to_string(data) {
            Ok(json) => line(&json),
            Err(error) => eprintln!("jetlane: the result is no JSON: {error}"),
        }
    }

    /// Says something to the person, not to the program.
    pub(crate) fn say(&self, text: impl fmt::Display) {
        eprintln!("{text}");
    }

    /// Tells why a command failed.
    pub(crate) fn fail(&self, failure: &Failure) -> Exit {
        if self.is_json() {
            let error = serde_json::json!({
                "error": { "code": failure.exit as u8, "message": failure.message, "help": failure.help }
            });
            eprintln!("{error}");
        } else {
            eprintln!("jetlane: {}", failure.message);
            if let Some(help) = &failure.help {
                eprintln!("         {help}");
            }
        }
        failure.exit
    }
}

/// A reader that has gone away (`| head`) is no fault.
fn line(text: &str) {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    let _closed = writeln!(stdout, "{text}");
}

/// A table without borders.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(head.map(str::to_uppercase));
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row);
    }
    table.trim_fmt()
}

/// A number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}

/// A short time at a glance.
pub(crate) fn took(ms: f64) -> String {
    match ms {
        ms if ms > 0.0 && ms < 0.1 => format!("{:.0} us", ms * 1_000.0),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 10_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.0} s", ms / 1_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_time_is_told_in_its_own_unit() {
        let all = [0.0, 0.034, 2.54, 250.0, 12_400.0].map(took);
        assert_eq!(all, ["0.0 ms", "34 us", "2.5 ms", "250 ms", "12 s"]);
    }

    #[test]
    fn large_numbers_are_read_at_a_glance() {
        let all = [0, 12, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(all, ["0", "12", "999", "1,000", "1,234,567"]);
    }
}
