//! Examples that run in CI: see the folders beside this one.
