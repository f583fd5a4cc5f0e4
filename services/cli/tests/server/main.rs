//! The commands against a real nats-server.

mod basics;
mod bench;
mod dead_letters;
mod place;
mod queues;
mod record;
mod submit;
mod tasks;
