//! The callback service as a process of its own.

use jetlane_callback::{SERVICE, run};
use jetlane_service::frame;
use std::process::ExitCode;

fn main() -> ExitCode {
    frame::main(SERVICE, run)
}
