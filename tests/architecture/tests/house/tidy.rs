//! Tidiness that a reader relies on: what a module is for, and what may not stand in it.

use crate::none;
use jetlane_architecture::{Source, sources};

/// Names of rooms that say nothing of what is in them.
const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc", "manager", "types", "models"];

/// Queues without a bound, which hide overload until memory ends.
const UNBOUNDED: &[&str] = &["unbounded_channel", "mpsc::unbounded(", "mpsc::unbounded::<", "std::sync::mpsc::channel"];

fn products() -> Vec<Source> {
    sources(&[".rs"]).into_iter().filter(|source| !source.is_test()).collect()
}

#[test]
fn the_first_line_of_a_file_says_what_the_room_is_for() {
    let silent = sources(&[".rs"]).into_iter().filter(|source| {
        source.text.lines().next().is_none_or(|line| !line.starts_with("//! ") || line.len() < "//! A room.".len())
    });
    none("files whose first line is no `//! ...`", &silent.map(|source| source.path).collect::<Vec<_>>());
}

#[test]
fn a_room_has_a_name_that_says_something() {
    let empty = sources(&[".rs"]).into_iter().filter(|source| {
        let mut parts = source.path.trim_end_matches(".rs").split('/');
        parts.any(|part| EMPTY_NAMES.contains(&part))
    });
    none("names that say nothing", &empty.map(|source| source.path).collect::<Vec<_>>());
}

#[test]
fn every_queue_has_a_bound() {
    let mut breaches = Vec::new();
    for source in products().iter().filter(|source| !source.path.starts_with("tests/")) {
        for (number, line) in source.code_lines() {
            let unbounded = UNBOUNDED.iter().filter(|word| line.contains(**word));
            breaches.extend(unbounded.map(|word| format!("{}:{number} {word}", source.path)));
        }
    }
    none("queues without a bound", &breaches);
}

#[test]
fn what_is_left_to_do_has_an_issue() {
    // Put together here, so that this file does not name them.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let mut breaches = Vec::new();
    for source in sources(&[".rs", ".py", ".sh", ".mjs", ".toml", ".yaml", ".conf"]) {
        for (at, line) in source.text.lines().enumerate() {
            let open =
                marks.iter().any(|mark| line.match_indices(mark).any(|(at, _)| !has_issue(&line[at + mark.len()..])));
            if open {
                breaches.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    none("marks without an issue: write `(#12)` behind them", &breaches);
}

/// Whether `(#12)` follows.
fn has_issue(after: &str) -> bool {
    after.strip_prefix("(#").and_then(|rest| rest.split_once(')')).is_some_and(|(n, _)| n.parse::<u32>().is_ok())
}

#[test]
fn an_issue_is_told_from_a_bare_mark() {
    assert!(has_issue("(#12): later"));
    assert!(!has_issue(": later"));
    assert!(!has_issue("(#): later"));
}

#[test]
fn no_test_is_switched_off() {
    let off = concat!("#[", "ignore");
    let breaches = sources(&[".rs"]).into_iter().filter(|source| source.text.contains(off)).map(|source| source.path);
    none("tests that are switched off", &breaches.collect::<Vec<_>>());
}
