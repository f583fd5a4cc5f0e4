//! What executors promise, against a real nats-server. Tasks are put on the lanes as a dispatcher would
//! put them there.

#![allow(missing_docs, reason = "the names of tests are their documents")]

mod bundles;
mod gated;
mod means;
mod pressure;
mod reference;
mod stage;
mod yields;
