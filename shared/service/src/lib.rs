//! Runs: configuration, telemetry, health and drain, the frame of every process.
