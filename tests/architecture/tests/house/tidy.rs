//! Tidiness that a reader relies on: what a room is for, how long it is, and what may not stand in it.

use crate::none;
use jetlane_architecture::{Source, root, sources};
use std::collections::BTreeMap;

/// The most lines of a file, its own test module left out.
const FILE_LINES_MAX: usize = 400;
/// The most lines of a function, from its first to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Where longer ones stand, each with the length that it may not exceed.
const EXCEPTIONS: &str = "tests/architecture/exceptions.txt";

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
fn files_and_functions_fit_on_a_page() {
    let mut found = BTreeMap::new();
    for source in products() {
        let lines = source.product_lines().count();
        if lines > FILE_LINES_MAX {
            found.insert(source.path.clone(), lines);
        }
        for (name, lines) in source.functions().into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX) {
            found.insert(format!("{}::{name}", source.path), lines);
        }
    }
    let text = std::fs::read_to_string(root().join(EXCEPTIONS)).expect("the list of exceptions is there");
    none("too long, or an exception that is no longer one", &ratchet(&found, &parse(&text)));
}

/// The exceptions: a path, or a path and a function, and a number of lines.
fn parse(text: &str) -> BTreeMap<String, usize> {
    let rows = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|row| {
        let (what, lines) = row.rsplit_once(' ').expect("a row is `path[::function] lines`");
        (what.to_owned(), lines.parse().expect("a row ends with a number of lines"))
    })
    .collect()
}

/// What is longer than it may be, and what the list allows although it is shorter by now: the list only shrinks.
fn ratchet(found: &BTreeMap<String, usize>, allowed: &BTreeMap<String, usize>) -> Vec<String> {
    let longer = found.iter().filter_map(|(what, lines)| match allowed.get(what) {
        None => Some(format!("{what} has {lines} lines")),
        Some(most) if lines > most => Some(format!("{what} has grown from {most} to {lines} lines")),
        Some(_) => None,
    });
    let shorter = allowed.iter().filter_map(|(what, most)| match found.get(what) {
        None => Some(format!("{what} fits by now: take it out of {EXCEPTIONS}")),
        Some(lines) if lines < most => {
            Some(format!("{what} has {lines} lines by now: lower its {most} in {EXCEPTIONS}"))
        }
        Some(_) => None,
    });
    longer.chain(shorter).collect()
}

#[test]
fn the_list_of_exceptions_only_shrinks() {
    let rows = |text: &str| parse(text);
    assert!(ratchet(&rows("a.rs 410"), &rows("# none yet")).len() == 1);
    assert!(ratchet(&rows("a.rs 411"), &rows("a.rs 410")).len() == 1);
    assert!(ratchet(&rows("a.rs 409"), &rows("a.rs 410")).len() == 1);
    assert!(ratchet(&rows(""), &rows("a.rs::f 80")).len() == 1);
    assert!(ratchet(&rows("a.rs::f 80"), &rows("a.rs::f 80")).is_empty());
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
