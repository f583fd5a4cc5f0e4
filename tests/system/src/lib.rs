//! The whole system against a real nats-server: one file a promise.
