//! What only one room may spell: subjects, streams and headers; and what the core may not name.

use crate::none;
use jetlane_architecture::{Source, sources};

/// The first tokens of Jetlane's own subjects. Task types such as `jetlane.echo` are no subjects.
const SUBJECTS: &[&str] =
    &["submit", "task", "schedule", "due", "lane", "bundle", "done", "dead", "credit", "wanted", "progress", "cancel"];

/// Streams, buckets and headers.
const WIRE_NAMES: &[&str] = &[
    "JETLANE_TASKS",
    "JETLANE_TIME",
    "JETLANE_LANES",
    "JETLANE_DONE",
    "JETLANE_DEAD",
    "JETLANE_ADVISORIES",
    "jetlane_registry",
    "jetlane_leases",
    "jetlane_notes",
    "\"ce-",
    "\"Nats-",
    "\"traceparent\"",
    "\"tracestate\"",
];

/// Clocks, randomness, I/O and unordered maps: with any of them the core would not decide the same twice.
const FOREIGN_TO_THE_CORE: &[&str] = &[
    "Instant",
    "SystemTime",
    "tokio",
    "async fn",
    "rand::",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "HashMap",
    "HashSet",
];

/// Whether the file may spell names of the wire: the contract itself, and tests, which see what others see.
fn may_spell(source: &Source) -> bool {
    source.path.starts_with("schemas/") || source.path.starts_with("tests/") || source.is_test()
}

/// What a span is called is no subject: nobody publishes there, and a template keeps names few.
const SPAN_FIELDS: &[&str] = &["otel.name = ", "messaging.destination.name = "];

/// The name of the wire that a line of code spells.
fn spelled(line: &str) -> Option<&'static str> {
    if SPAN_FIELDS.iter().any(|field| line.trim_start().starts_with(field)) {
        return None;
    }
    let in_literal =
        |name: &str| line.match_indices(name).any(|(at, _)| line[..at].contains('"') || name.starts_with('"'));
    WIRE_NAMES
        .iter()
        .copied()
        .find(|name| in_literal(name))
        .or_else(|| SUBJECTS.iter().copied().find(|token| in_literal(&format!("jetlane.{token}."))))
}

#[test]
fn subjects_streams_and_headers_are_spelled_in_the_contract_alone() {
    let mut breaches = Vec::new();
    for source in sources(&[".rs"]).iter().filter(|source| !may_spell(source)) {
        for (number, line) in source.code_lines() {
            if let Some(name) = spelled(line) {
                breaches.push(format!("{}:{number} spells {name}", source.path));
            }
        }
    }
    none("names of the wire outside schemas/", &breaches);
}

#[test]
fn a_name_in_a_literal_is_seen_and_a_task_type_is_not() {
    assert!(spelled(r#"let subject = format!("jetlane.submit.{task_type}");"#).is_some());
    assert!(spelled(r#"println!("nats pub -J jetlane.submit.image.thumbnail");"#).is_some());
    assert!(spelled(r#"context.get_stream("JETLANE_DONE")"#).is_some());
    assert!(spelled(r#"headers.insert("ce-id", id)"#).is_some());
    assert!(spelled(r#"const TYPE: &str = "jetlane.echo";"#).is_none());
    assert!(spelled("subject::submit(&task_type)").is_none());
    assert!(spelled(r#"otel.name = format_args!("publish jetlane.task.{queue}"),"#).is_none());
}

#[test]
fn the_core_names_no_clock_no_randomness_and_no_io() {
    let mut breaches = Vec::new();
    let mut files = 0;
    for source in sources(&[".rs"]).iter().filter(|s| s.path.starts_with("shared/core/src/") && !s.is_test()) {
        files += 1;
        for (number, line) in source.code_lines() {
            let foreign = FOREIGN_TO_THE_CORE.iter().filter(|word| names_word(line, word));
            breaches.extend(foreign.map(|word| format!("{}:{number} names {word}", source.path)));
        }
    }
    assert!(files > 0, "the core has moved: the rule has lost its object");
    none("what the core may not know", &breaches);
}

/// Whether the line has the word, not as the end of a longer one.
fn names_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn a_clock_in_the_core_would_be_seen() {
    assert!(names_word("let now = Instant::now();", "Instant"));
    assert!(names_word("use std::collections::{BTreeMap, HashMap};", "HashMap"));
    assert!(!names_word("let operand::x = 1;", "rand::"));
}
