//! The reference executor: pictures, HTTP requests, and tasks to test with.

pub mod thumbnail;
