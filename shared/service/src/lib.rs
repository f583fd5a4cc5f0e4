//! Runs: configuration, telemetry, health and drain, the frame of every process.
//!
//! # Layout
//! - [`frame`]: a whole process: configuration, runtime, signals, drain, exit code
//! - [`config`]: variables and file, read once into a checked type
//! - [`telemetry`]: logs, and traces where an OTLP endpoint is configured
//! - [`health`]: `/livez` and `/readyz`
//! - [`egress`]: the only door for HTTP that leaves
//!
//! Deliberately absent: the broker. A service connects by itself, from [`config::Nats`].

pub mod config;
pub mod egress;
pub mod frame;
pub mod health;
pub mod telemetry;
