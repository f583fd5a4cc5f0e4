//! What the words of the command line mean, and which are refused.

use clap::Parser as _;
use clap::error::ErrorKind;
use jetlane_cli::args::{Args, BenchWhat, Clock, Command, Format, MaxWait, QueuesAction, TasksAction, TypesAction};
use jetlane_schemas::{Admit, PolicyName};
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
    let BenchWhat::Pipeline(pipeline) = bench.what else { panic!("another bench") };
    assert_eq!((pipeline.tasks, pipeline.travel.bundle, pipeline.travel.body), (100_000, 128, 200));
    assert_eq!((pipeline.open_loop_seconds, pipeline.clock, pipeline.pairs), (None, Clock::Poisson, 0));
}

#[test]
fn a_bench_is_asked_for_what_can_be_measured() {
    for words in ["--bundle 0", "--bundle 129", "--body 10", "--body 1000000", "--clock never"] {
        let refused = parse(&format!("jetlane bench pipeline {words}")).expect_err(words);
        assert!(matches!(refused, ErrorKind::ValueValidation | ErrorKind::InvalidValue), "{words}: {refused}");
    }
    assert_eq!(parse("jetlane bench idle --seconds 0").expect_err("no time"), ErrorKind::ValueValidation);
    let Command::Bench(bench) = command("jetlane bench backlog") else { panic!("another command") };
    let BenchWhat::Backlog(backlog) = bench.what else { panic!("another bench") };
    assert_eq!(backlog.tasks, 1_000_000);
}

#[test]
fn global_options_stand_before_or_after_the_command() {
    for line in ["jetlane -o json --server nats://a:1 doctor", "jetlane doctor --server nats://a:1 --output json"] {
        let args = parse(line).expect(line);
        assert_eq!((args.output, args.nats.server.as_deref()), (Some(Format::Json), Some("nats://a:1")));
    }
}

#[test]
fn a_body_on_stdin_is_no_flag_and_a_type_is_set_option_by_option() {
    let Command::Submit(submit) = command("jetlane submit a.b -") else { panic!("another command") };
    assert_eq!(submit.body, "-");
    let Command::Submit(submit) = command("jetlane submit a.b -1.5") else { panic!("another command") };
    assert_eq!(submit.body, "-1.5", "a negative number is JSON");
    let line = "jetlane types set a.b --queue q --retries 5 --timeout 30s --backoff 1s --schema s.json";
    let Command::Types(types) = command(line) else { panic!("another command") };
    let TypesAction::Set(set) = types.action else { panic!("another action") };
    assert_eq!((set.queue.as_deref(), set.retries), (Some("q"), Some(5)));
    assert_eq!(set.backoff, Some(Duration::from_secs(1)));
}

#[test]
fn a_submission_says_what_it_needs_and_by_when() {
    let line = "jetlane submit a.b --estimate 2s --size-key large --needs cpu:2,memory:512,gpu:1,label:zone-a \
                --deadline 30s --admit strict --expect";
    let Command::Submit(submit) = command(line) else { panic!("another command") };
    assert_eq!((submit.estimate, submit.deadline), (Some(Duration::from_secs(2)), Some(Duration::from_secs(30))));
    assert_eq!((submit.size_key.as_deref(), submit.admit, submit.expect), (Some("large"), Some(Admit::Strict), true));
    let needs = submit.needs.expect("said");
    assert_eq!((needs.cpu_milli, needs.memory_mib, needs.resources["gpu"]), (2_000, 512, 1));
    assert!(needs.labels.contains("zone-a"));
}

#[test]
fn a_queue_is_set_option_by_option() {
    let line = "jetlane queues set q --policy weighted --weights 8:4:2:1 --round type --max-wait none \
                --fit large=cpu:4,memory:8192 --fit bare --drop-fit old --pause";
    let Command::Queues(queues) = command(line) else { panic!("another command") };
    let QueuesAction::Set(set) = queues.action else { panic!("another action") };
    assert_eq!((set.policy, set.max_wait), (Some(PolicyName::Weighted), Some(MaxWait::None)));
    assert_eq!((set.fit.len(), set.fit[0].covers.cpu_milli), (2, 4_000));
    assert_eq!((set.drop_fit.as_slice(), set.pause, set.resume), (&["old".to_owned()][..], true, false));
}

#[test]
fn a_recording_ends_by_itself_or_by_a_signal() {
    let Command::Record(record) = command("jetlane record q") else { panic!("another command") };
    assert_eq!((record.follow, record.since, record.tasks), (None, None, 1_000_000));
    assert_eq!(record.to, std::path::Path::new("-"));
    let line = "jetlane record q --for 60s --since 1h --tasks 7 --to trace.csv --anonymous";
    let Command::Record(record) = command(line) else { panic!("another command") };
    assert_eq!((record.follow, record.tasks), (Some(Duration::from_secs(60)), 7));
    assert!(record.anonymous);
}

#[test]
fn a_task_is_asked_after_by_its_id() {
    let Command::Tasks(tasks) = command("jetlane tasks explain s7 --type a.b --queue q") else { panic!("another") };
    let TasksAction::Explain(explain) = tasks.action else { panic!("another action") };
    assert_eq!((explain.id.as_str(), explain.task_type.as_deref()), ("s7", Some("a.b")));
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
        ("jetlane queues set q", ErrorKind::MissingRequiredArgument),
        ("jetlane queues set q --policy fastest", ErrorKind::ValueValidation),
        ("jetlane queues set q --weights 1:2:3", ErrorKind::ValueValidation),
        ("jetlane queues set q --fit large=cpu:many", ErrorKind::ValueValidation),
        ("jetlane queues set q --pause --resume", ErrorKind::ArgumentConflict),
        ("jetlane submit a.b --admit strict", ErrorKind::MissingRequiredArgument),
        ("jetlane submit a.b --deadline 1s --admit maybe", ErrorKind::ValueValidation),
        ("jetlane submit a.b --needs gpu", ErrorKind::ValueValidation),
        ("jetlane submit a.b --expect --wait", ErrorKind::ArgumentConflict),
        ("jetlane record q --tasks 0", ErrorKind::ValueValidation),
        ("jetlane tasks", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("jetlane tasks cancel s7", ErrorKind::MissingRequiredArgument),
        ("jetlane dead-letters resend", ErrorKind::MissingRequiredArgument),
        ("jetlane dead-letters purge --limit 5", ErrorKind::MissingRequiredArgument),
        ("jetlane dead-letters resend --all s7", ErrorKind::ArgumentConflict),
        ("jetlane dead-letters resend --queue q --callbacks", ErrorKind::ArgumentConflict),
        ("jetlane dead-letters ls --limit 0", ErrorKind::ValueValidation),
        ("jetlane dead-letters ls --limit 10001", ErrorKind::ValueValidation),
        ("jetlane new service x", ErrorKind::InvalidValue),
        ("jetlane run monitor", ErrorKind::InvalidValue),
        ("jetlane dev --port 70000", ErrorKind::ValueValidation),
        ("jetlane doctor -o yaml", ErrorKind::InvalidValue),
    ] {
        assert_eq!(parse(line).err(), Some(kind), "{line}");
    }
}
