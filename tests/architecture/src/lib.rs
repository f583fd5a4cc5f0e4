//! House rules, held by tests.
