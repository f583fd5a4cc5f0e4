//! The commands against a real nats-server.

mod basics;
mod bench;
mod place;
mod queues;
mod record;
mod submit;
mod tasks;
