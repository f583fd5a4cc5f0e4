//! The dispatcher as a process of its own.

use jetlane_dispatcher::{SERVICE, serve};
use jetlane_service::frame;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A test names points at which the process crashes; a build that is shipped has none.
    let _crashes = fail::has_failpoints().then(fail::FailScenario::setup);
    frame::main(SERVICE, serve)
}
