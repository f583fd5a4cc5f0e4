//! `jetlane run SERVICE`: one service as this process.

use crate::args::{Run, ServerFlags, Service};
use crate::reach::variables;
use jetlane_service::frame;
use std::process::ExitCode;

/// Runs the service until it is told to end.
pub(crate) fn run(run: &Run, nats: &ServerFlags) -> ExitCode {
    let flags = variables(nats);
    match run.service {
        Service::Dispatcher => frame::main_with(jetlane_dispatcher::SERVICE, &flags, jetlane_dispatcher::serve),
        Service::Executor => frame::main_with(jetlane_executor::SERVICE, &flags, jetlane_executor::serve),
        Service::Callback => frame::main_with(jetlane_callback::SERVICE, &flags, jetlane_callback::run),
    }
}
