//! `jetlane run SERVICE`: one service as this process.

use crate::args::{Run, Service};
use jetlane_service::frame;
use std::process::ExitCode;

/// Runs the service until it is told to end.
pub(crate) fn run(run: &Run) -> ExitCode {
    match run.service {
        Service::Dispatcher => frame::main(jetlane_dispatcher::SERVICE, jetlane_dispatcher::serve),
        Service::Executor => frame::main(jetlane_executor::SERVICE, jetlane_executor::serve),
        Service::Callback => frame::main(jetlane_callback::SERVICE, jetlane_callback::run),
    }
}
