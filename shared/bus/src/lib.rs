//! Carries: the only user of async-nats. Streams, publishes, pulls, leases, schedules, leaders.
//!
//! # Layout
//! - [`Bus`]: one connection, and what it tells of itself; `address`: where it connects to
//! - [`Fault`]: the class of a broker's answer: transient, unknown or final
//! - [`topology`]: streams and buckets as data, ensured at start, drift reported
//! - [`publish`]: publish and wait for the ack, the same bytes under the same id until it is known; `acks`: acks
//!   heard, `ingest`: one for many, `block` and `subjects`: headers and subjects as they go
//! - [`pull`]: pulls by free room, and what they bring; `ack`: how it is answered, `settling`: acks that go with
//!   the next publish
//! - [`inquire`]: questions to other processes
//! - [`flows`]: the consumers of intake and lanes; taking over from an old leader
//! - [`unreadable`]: messages whose headers are none, found before they do more harm
//! - [`look`]: what is stored, read in its order without taking it
//! - [`done`]: the one completion of a task, arbitrated by the server; [`Hearing`]: hearing of it
//! - [`letters`]: dead letters, read and sent again
//! - [`schedule`]: delays in the broker
//! - [`lease`], [`kv`]: who leads a queue; what is announced
//! - [`room`]: how many types and queues the registry takes
//! - [`claims`]: one task of a key at a time
//! - [`probe`]: whether the connection is up and the streams exist, for readiness
//! - [`trace`], [`clock`]: trace context as it travels; the three clocks
//! - [`local`]: a nats-server of one's own: found, started, ended
//! - [`floor`]: what the bare broker does, the ruler of every figure
//!
//! Deliberately absent: decisions. What to pull, where to send and when to retry is told by callers.

mod ack;
mod acks;
mod address;
mod answer;
mod block;
pub mod claims;
pub mod clock;
mod connection;
pub mod done;
mod error;
pub mod floor;
pub mod flows;
mod hearing;
mod ingest;
pub mod inquire;
pub mod kv;
pub mod lease;
pub mod letters;
pub mod local;
pub mod look;
pub mod probe;
pub mod publish;
pub mod pull;
pub mod room;
pub mod schedule;
mod settling;
mod subjects;
pub mod topology;
pub mod trace;
pub mod unreadable;

pub use ack::Ack;
pub use answer::Fault;
pub use connection::{Bus, Connect, Message, ServerFacts, Subscription, WhenAbsent};
pub use error::Error;
pub use hearing::Hearing;
pub use publish::{Outgoing, Published};
pub use pull::{Delivery, Pulled, Puller};
