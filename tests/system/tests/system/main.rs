//! The whole system against a real nats-server: one file a promise.
#![allow(missing_docs, reason = "the names of tests are their documents")]

mod executor;
mod pipeline;
mod tasks;
