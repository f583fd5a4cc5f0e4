//! The `jetlane` command.

fn main() -> std::process::ExitCode {
    jetlane_cli::main()
}
