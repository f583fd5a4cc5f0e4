//! Decides: what runs next, and what follows from an answer. No I/O, clock or randomness.
//!
//! Events and the time go in, decisions come out; the same events give the same decisions, bit for
//! bit. The simulator and the dispatcher drive the same code.
//!
//! # Layout
//! - [`queue`]: the state machine of one queue, with its [`event`]s and decisions
//! - [`entry`]: what the queue knows of a waiting task
//! - [`policy`]: the order of dispatch
//! - [`bundle`]: how many tasks go into one message
//! - [`credit`], [`plain`]: how much the executors can take, by their announcements or by their pulls
//! - [`estimate`]: how long tasks run
//! - [`window`]: how much of a flow is read
//! - [`duplicates`]: the same run of a task, arriving twice
//! - [`numbers`]: small numbers for the names of tenants
//! - [`shards`]: which tenant stands where
//! - [`retry`]: what follows from a handler's answer
//! - [`run`]: what an executor does with a delivered run

pub mod bundle;
pub mod credit;
pub mod duplicates;
pub mod entry;
pub mod estimate;
pub mod event;
mod fits;
pub mod numbers;
pub mod plain;
pub mod policy;
pub mod queue;
pub mod retry;
pub mod run;
pub mod shards;
pub mod window;

pub use entry::{Entry, EntryId, FitId, FlowId, TenantId, TypeId};
pub use event::{Decision, Event, Stored, Waited};
pub use queue::{Forecast, Queue, Standing};
