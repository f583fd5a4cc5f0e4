//! Promises of this room. Each test starts itself again as the process that it watches.

use super::*;
use rustix::process::{Pid, Signal as Kill, kill_process};
use serde::Deserialize;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};

const SERVICE: Service = Service { name: "tester", version: "0" };
const CHILD: &str = "JETLANE_TEST_FRAME";

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    work: String,
}

#[derive(Debug, thiserror::Error)]
#[error("the broker\nwent away")]
struct Failed(#[source] io::Error);

async fn work(frame: Frame, settings: Settings) -> Result<(), Failed> {
    println!("\nworking");
    match settings.work.as_str() {
        "fail" => return Err(Failed(io::Error::other("no route"))),
        "panic" => panic!("a bug"),
        "stuck" => {
            frame.drain.cancelled().await;
            println!("\ndraining");
            std::future::pending().await
        }
        _ => frame.drain.cancelled().await,
    }
    assert_eq!(frame.health.readiness(), health::Readiness::Draining);
    println!("\ndrained");
    Ok(())
}

/// A process that runs `work` in the frame, and what it prints.
struct Watched {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Watched {
    fn start(variables: &[(&str, &str)]) -> Self {
        let this = std::thread::current().name().unwrap().to_owned();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &this, "--nocapture"])
            .env(CHILD, "1")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// Waits until it prints this line.
    fn says(&mut self, wanted: &str) {
        let mut line = String::new();
        while line.trim() != wanted {
            line.clear();
            assert_ne!(self.out.read_line(&mut line).unwrap(), 0, "it ended without saying {wanted:?}");
        }
    }

    fn signal(&self, signal: Kill) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The exit code, and the last line of its standard error.
    fn ends(mut self) -> (Option<i32>, String) {
        let mut error = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        (self.child.wait().unwrap().code(), error.lines().last().unwrap_or_default().to_owned())
    }
}

/// In the started process, runs the frame and ends; in the test itself, goes on.
fn frame_if_started() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let code = match start(SERVICE, &[], work) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{}", one_line(&error));
            error.exit_code()
        }
    };
    std::process::exit(code.into());
}

#[test]
fn a_signal_to_end_is_a_drain_and_no_failure() {
    frame_if_started();
    for signal in [Kill::TERM, Kill::INT] {
        let mut process = Watched::start(&[]);
        process.says("working");
        process.signal(signal);
        process.says("drained");
        assert_eq!(process.ends().0, Some(0));
    }
}

#[test]
fn a_second_signal_ends_at_once_with_130() {
    frame_if_started();
    let mut process = Watched::start(&[("JETLANE_TESTER_WORK", "stuck")]);
    process.says("working");
    process.signal(Kill::INT);
    process.says("draining");
    process.signal(Kill::INT);
    let (code, error) = process.ends();
    assert_eq!((code, error.as_str()), (Some(130), "tester was told twice to end"));
}

#[test]
fn a_drain_has_a_bound() {
    frame_if_started();
    let mut process = Watched::start(&[("JETLANE_TESTER_WORK", "stuck"), ("JETLANE_TESTER_DRAIN_TIME", "20ms")]);
    process.says("working");
    process.signal(Kill::TERM);
    let (code, error) = process.ends();
    assert_eq!((code, error.as_str()), (Some(1), "tester did not finish within 20 ms after the signal to end"));
}

#[test]
fn a_child_drains_when_its_parent_is_gone() {
    frame_if_started();
    let mut process = Watched::start(&[("JETLANE_DIE_WITH_PARENT", "1")]);
    process.says("working");
    drop(process.child.stdin.take());
    process.says("drained");
    assert_eq!(process.ends().0, Some(0));
}

#[test]
fn a_closed_standard_input_means_nothing_to_a_process_on_its_own() {
    frame_if_started();
    let mut process = Watched::start(&[]);
    drop(process.child.stdin.take());
    process.says("working");
    process.signal(Kill::TERM);
    process.says("drained");
    assert_eq!(process.ends().0, Some(0));
}

#[test]
fn an_error_is_one_line_with_its_causes() {
    frame_if_started();
    let (code, error) = Watched::start(&[("JETLANE_TESTER_WORK", "fail")]).ends();
    assert_eq!((code, error.as_str()), (Some(1), "tester failed: the broker went away: no route"));
    let (code, error) = Watched::start(&[("JETLANE_TESTER_WORK", "panic")]).ends();
    assert!(code == Some(1) && error.contains("a bug"), "{code:?} {error}");
}

#[test]
fn a_wrong_setting_ends_the_process_with_2_before_any_work() {
    frame_if_started();
    for (variable, value) in [
        ("JETLANE_TESTER_WROK", "1"),
        ("JETLANE_TESTER_HEALTH_PORT", "99999"),
        ("JETLANE_NATS_URLS", "x"),
        ("JETLANE_LOG", "a=b=c"),
        ("JETLANE_LOG_FORMAT", "xml"),
    ] {
        let (code, error) = Watched::start(&[(variable, value)]).ends();
        assert!(code == Some(2) && error.contains(variable), "{variable}: {code:?} {error}");
    }
    let (code, error) = Watched::start(&[("JETLANE_CONFIG", "/no/such/file.toml")]).ends();
    assert!(code == Some(2) && error.contains("/no/such/file.toml"), "{code:?} {error}");
}

#[test]
fn a_health_port_in_use_is_named() {
    frame_if_started();
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, error) = Watched::start(&[("JETLANE_TESTER_HEALTH_PORT", &port)]).ends();
    assert!(code == Some(1) && error.contains(&format!("health port {port}")), "{code:?} {error}");
}
