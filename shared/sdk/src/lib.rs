//! Submit tasks to a NATS cluster, run them, and hear of their completions.
//!
//! ```no_run
//! use jetlane::{Client, Ctx, Executor, Priority, Task, TaskError};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! struct Greet { name: String }
//!
//! impl Task for Greet {
//!     const TYPE: &'static str = "demo.greet";
//!     type Output = String;
//! }
//!
//! async fn greet(task: Greet, _ctx: Ctx) -> Result<String, TaskError> {
//!     Ok(format!("hello {}", task.name))
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("nats://127.0.0.1:4222").await?;
//! tokio::spawn(Executor::new(&client, "greeters").task(greet).run());
//! let handle = client.submit(Greet { name: "Ada".into() }).priority(Priority::High).await?; // accepted: stored
//! let text: String = handle.await?; // the promise
//! # Ok(()) }
//! ```
//!
//! # Layout
//! - [`Client`], [`Submit`], [`TaskHandle`]: submit, and hear of the outcome, in this process or another
//! - [`Completions`]: subscribe to completions, durable or not
//! - [`Executor`], [`Task`], [`Ctx`], [`TaskError`]: run tasks
//!
//! Deliberately absent: polling, and any store but NATS.

mod client;
mod completions;
mod error;
mod executor;
mod handle;
mod json;
mod listening;
mod question;
mod registry;
mod submit;
mod task;

pub use client::Client;
pub use completions::{Completions, Received, Subscribed};
pub use error::Error;
pub use executor::{
    Attempt, Concurrency, Ctx, Executor, Extracted, FromTask, Handler, Pressure, Report, Seed, State, Status,
    TaskReply, TaskRequest, TaskService,
};
pub use handle::TaskHandle;
pub use jetlane_schemas::question::{Answer, Expectation, Explanation, Reason};
pub use jetlane_schemas::{
    Admit, Callback, Completion, Failure, Flow, Headers, Needs, Outcome, PayloadCodec, Priority, QueueEntry, QueueName,
    TaskId, TaskType, TypeEntry,
};
pub use submit::{Accepted, Submit};
pub use task::{Task, TaskError, TaskOptions};

pub use jetlane_bus::{Bus, Connect, WhenAbsent};
