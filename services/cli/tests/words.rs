//! What the words of the command line mean, and which are refused.

use clap::Parser as _;
use clap::error::ErrorKind;
use jetlane_cli::args::{Args, BenchWhat, Command, Format, TypesAction};
use std::time::Duration;

fn parse(line: &str) -> Result<Args, ErrorKind> {
    Args::try_parse_from(line.split_whitespace()).map_err(|error| error.kind())
}

fn command(line: &str) -> Command {
    parse(line).expect(line).command
}

#[test]
fn a_submission_is_read_with_its_options() {
    let line = "jetlane submit a.b @body.json --priority high --tenant t --key k --queue q --delay 1h30m \
                --webhook x --webhook y --wait --timeout 250ms";
    let Command::Submit(submit) = command(line) else { panic!("another command") };
    assert_eq!((submit.task_type.as_str(), submit.body.as_str()), ("a.b", "@body.json"));
    assert_eq!(submit.priority, jetlane::Priority::High);
    assert_eq!(submit.delay, Some(Duration::from_secs(5_400)));
    assert_eq!(submit.webhook, ["x", "y"]);
    assert!(submit.wait);
    assert_eq!(submit.timeout, Duration::from_millis(250));
}

#[test]
fn what_is_not_said_has_a_default() {
    let Command::Submit(submit) = command("jetlane submit a.b") else { panic!("another command") };
    assert_eq!((submit.body.as_str(), submit.wait, submit.delay), ("{}", false, None));
    assert_eq!(submit.priority, jetlane::Priority::Normal);
    let Command::Result(result) = command("jetlane result s7") else { panic!("another command") };
    assert_eq!((result.wait, result.timeout), (false, Duration::from_secs(300)));
    let Command::Bench(bench) = command("jetlane bench pipeline") else { panic!("another command") };
    let BenchWhat::Pipeline(pipeline) = bench.what;
    assert_eq!(pipeline.tasks, 100_000);
}

#[test]
fn global_options_stand_before_or_after_the_command() {
    for line in ["jetlane -o json --server nats://a:1 doctor", "jetlane doctor --server nats://a:1 --output json"] {
        let args = parse(line).expect(line);
        assert_eq!((args.output, args.nats.server.as_str()), (Format::Json, "nats://a:1"));
    }
}

#[test]
fn a_body_on_stdin_is_no_flag_and_a_type_is_set_option_by_option() {
    let Command::Submit(submit) = command("jetlane submit a.b -") else { panic!("another command") };
    assert_eq!(submit.body, "-");
    let line = "jetlane types set a.b --queue q --retries 5 --timeout 30s --backoff 1s --schema s.json";
    let Command::Types(types) = command(line) else { panic!("another command") };
    let TypesAction::Set(set) = types.action else { panic!("another action") };
    assert_eq!((set.queue.as_deref(), set.retries), (Some("q"), Some(5)));
    assert_eq!(set.backoff, Some(Duration::from_secs(1)));
}

#[test]
fn words_that_mean_nothing_are_refused() {
    for (line, kind) in [
        ("jetlane", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("jetlane fly", ErrorKind::InvalidSubcommand),
        ("jetlane submit", ErrorKind::MissingRequiredArgument),
        ("jetlane submit a.b --priority urgent", ErrorKind::ValueValidation),
        ("jetlane submit a.b --delay soon", ErrorKind::ValueValidation),
        ("jetlane submit a.b --delay=-5s", ErrorKind::ValueValidation),
        ("jetlane watch --outcome done", ErrorKind::ValueValidation),
        ("jetlane types set a.b --retries -1", ErrorKind::UnknownArgument),
        ("jetlane new service x", ErrorKind::InvalidValue),
        ("jetlane run monitor", ErrorKind::InvalidValue),
        ("jetlane dev --port 70000", ErrorKind::ValueValidation),
        ("jetlane doctor -o yaml", ErrorKind::InvalidValue),
    ] {
        assert_eq!(parse(line).err(), Some(kind), "{line}");
    }
}
