//! The fault suite: real processes under a seeded schedule of faults, and a checker of what they did.
//!
//! # Layout
//! - `soak`: one run: start, inject, heal, drain, read, judge; `report`: what it found
//! - `scenarios`: one kind of fault, and the figure that it must reach
//! - `plan`: the schedule of faults, from a seed; `faults`: how each is carried out
//! - `stage`: what a soak or a scenario runs on; `servers`, `proxy`, `process`: the nats-servers, the links to them, the processes
//! - `disk`: a disk that becomes full; `clock`: clocks that are stepped; `probes`: what services say of their health
//! - `roles`: producers, executors and receivers, each with a `journal` of what it did
//! - `admin`: what the streams hold; `checker`: which promises were kept, a pure function
//! - `power`: a power cut of all servers
//! - `chance`: random choices that a seed decides

pub mod admin;
pub mod chance;
pub mod checker;
pub mod clock;
pub mod disk;
pub mod faults;
pub mod journal;
pub mod plan;
pub mod power;
pub mod probes;
pub mod process;
pub mod proxy;
pub mod report;
pub mod roles;
pub mod scenarios;
pub mod servers;
pub mod soak;
pub mod stage;
