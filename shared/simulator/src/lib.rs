//! Drives the core in virtual time: how the policies compare, before anything runs.
//!
//! What arrives is drawn from a seed or read from a trace; [`simulate`] hands it to
//! [`jetlane_core::Queue`], the very code that the dispatcher drives, behind the core's own windows and
//! with one executor that announces credit. Streams, executors and the way between them take no time.
//! Times are seconds in what is said to people and microseconds inside.
//!
//! # Layout
//! - [`arrivals`]: what arrives
//! - [`workload`]: arrivals drawn from a seed
//! - [`trace`]: arrivals read from CSV, and written to it
//! - [`run`]: one policy over all arrivals; `stream` and `executor` are the world around the queue
//! - [`srpt`]: the ideal that no queue can reach, as a reference
//! - [`figures`]: what came of it
//! - [`plot`]: the same as a picture
//! - [`formulas`], [`bars`]: what the figures are held against

pub mod arrivals;
pub mod bars;
mod error;
mod executor;
pub mod figures;
pub mod formulas;
pub mod plot;
pub mod run;
pub mod srpt;
mod stream;
pub mod trace;
pub mod workload;

pub use arrivals::{Arrivals, Task};
pub use error::Error;
pub use figures::{Figures, Lives};
pub use run::{Policy, Settings, simulate, simulate_all};
pub use workload::{Load, Noisy, Workload};
