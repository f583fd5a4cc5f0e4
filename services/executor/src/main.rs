//! The reference executor as a process of its own.

use jetlane_executor::{SERVICE, serve};
use jetlane_service::frame;
use std::process::ExitCode;

fn main() -> ExitCode {
    frame::main(SERVICE, serve)
}
