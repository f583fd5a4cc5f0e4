//! What the dispatcher promises, on a real nats-server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bundles;
mod clients;
mod crash;
mod flow;
mod identity;
mod keys;
mod leads;
mod limits;
mod lost;
mod needs;
mod order;
mod questions;
mod refusals;
mod stage;
mod tenants;
mod unreadable;
mod unserved;
