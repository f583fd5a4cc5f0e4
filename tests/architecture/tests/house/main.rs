//! The house rules, one module a kind. `cargo test -p jetlane-architecture` says which is broken, and where.

mod arrows;
mod guarantees;
mod names;
mod tidy;

/// Fails with all breaches at once.
fn none(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}
