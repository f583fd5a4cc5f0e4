//! The command as it is shipped, with failure points that a test can trigger: the variable
//! FAILPOINTS says which.

fn main() -> std::process::ExitCode {
    let _failpoints = fail::FailScenario::setup();
    jetlane_cli::main()
}
