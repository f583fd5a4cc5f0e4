//! Examples that run in CI.
