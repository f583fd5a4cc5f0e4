//! The contract: events, subjects, ids, options and codecs as Rust types.
//!
//! The only place where a subject, a stream or a header name is spelled. What stands here is what
//! another language has to know; `schemas/` holds the same as JSON Schema, AsyncAPI and golden
//! fixtures, generated from these types and held to them by a test.
//!
//! # Layout
//! - [`token`], [`id`], [`options`]: validated words, ids, and what a submitter may ask for
//! - [`subject`], [`header`]: every name on the wire
//! - [`task`], [`completion`], [`registry`], [`needs`]: the events and the announcements
//! - [`question`]: what anyone may ask the leader of a queue
//! - [`inquiry`]: what executors ask each other
//! - [`intake`]: what arrives by the open door (plain JSON, CloudEvents in both modes)
//! - [`codec`], [`frame`]: what only our own processes read
//! - [`limits`]: every bound of the wire, named
//! - [`document`]: JSON Schema and AsyncAPI, generated from the types
//!
//! Deliberately absent: I/O, clocks, async and the broker's client.

mod base64_text;
pub mod claim;
pub mod codec;
pub mod completion;
pub mod document;
pub mod frame;
pub mod header;
pub mod id;
pub mod inquiry;
pub mod intake;
pub mod json;
pub mod limits;
pub mod needs;
pub mod options;
pub mod question;
pub mod registry;
pub mod subject;
pub mod task;
pub mod token;

pub use completion::{Completion, Failure, Outcome};
pub use header::Headers;
pub use id::{RunToken, TaskId, TaskRef};
pub use needs::{FitEntry, Needs};
pub use options::{Admit, Micros, PayloadCodec, Priority, Shard};
pub use registry::{
    EstimateEntry, Order, PolicyName, QueueEntry, ShardEntry, SharedEntry, TypeEntry, TypeLayers, TypeOverride,
};
pub use subject::Flow;
pub use task::{Callback, Hop, TaskEvent, TraceContext};
pub use token::{Fit, InvalidName, QueueName, TaskType, Tenant};
