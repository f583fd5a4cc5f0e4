//! `jetlane run SERVICE`: one service as this process.

use crate::args::{Run, Service};
use std::process::ExitCode;

/// Runs the service until it is told to end.
pub(crate) fn run(run: &Run) -> ExitCode {
    match run.service {
        Service::Dispatcher => jetlane_dispatcher::main(),
        Service::Executor => jetlane_executor::main(),
        Service::Callback => jetlane_callback::main(),
    }
}
