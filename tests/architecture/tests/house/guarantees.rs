//! The page of guarantees names the test that holds each of its lines: those tests exist.

use crate::none;
use jetlane_architecture::{root, sources};
use std::collections::BTreeSet;

const PAGE: &str = "docs/guarantees.md";

/// The names in the last column of the page's tables.
fn named(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.ends_with("` |"));
    let last = rows.filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | "));
    let tests = last.flat_map(|(_, tests)| tests.split(", ").map(|test| test.trim_matches('`').to_owned()));
    // Constants stand in such a column too.
    tests.filter(|test| test.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')).collect()
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let page = std::fs::read_to_string(root().join(PAGE)).expect("the page is there");
    let named = named(&page);
    assert!(named.len() > 10, "the page names its tests in another form: {named:?}");
    let sources = sources(&[".rs"]);
    let exists = |test: &String| sources.iter().any(|source| source.text.contains(&format!("fn {test}()")));
    none("tests that only the guarantees know", &named.into_iter().filter(|test| !exists(test)).collect::<Vec<_>>());
}

#[test]
fn names_are_read_from_the_last_column() {
    let page = "| promise | test |\n|---|---|\n| kept | `kept_once`, `kept_twice` |\n| bound | `BOUND_MAX` |\n";
    assert_eq!(named(page).into_iter().collect::<Vec<_>>(), ["kept_once", "kept_twice"]);
}
