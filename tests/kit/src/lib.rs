//! A private nats-server and dispatcher in one line, for tests of executors.
