//! The command as it is shipped, with failure points that a test can trigger.

fn main() -> std::process::ExitCode {
    jetlane_cli::main()
}
