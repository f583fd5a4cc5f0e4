//! The whole system against a real nats-server: one file a promise.
#![allow(missing_docs, reason = "the names of tests are their documents")]

mod bad_input;
mod body_limit;
mod callbacks;
mod clocks;
mod dead_letters;
mod dispatcher_crash;
mod executor;
mod hostile_headers;
mod once;
mod open_door;
mod outsider;
mod pipeline;
mod plain_lane;
mod processes;
mod readiness;
mod receiver;
mod reference;
mod resources;
mod scheduling;
mod signals;
mod subscriptions;
mod survival;
mod tasks;
mod trace;
mod waits;
mod workshop;
