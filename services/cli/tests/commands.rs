//! What the commands do where no server answers or the words make no sense: the exit code, stdout for
//! data alone, and what to do next on stderr.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A port that nothing listens on.
const NOWHERE: &str = "nats://127.0.0.1:1";

fn jetlane(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetlane"));
    command.args(words).current_dir(folder).stdin(Stdio::null());
    for variable in ["NATS_URL", "NATS_CREDS", "JETLANE_NATS_URL", "JETLANE_NATS_CREDS", "JETLANE_CONFIG"] {
        command.env_remove(variable);
    }
    for variable in ["JETLANE_SDK_PATH", "JETLANE_MONITOR_URL"] {
        command.env_remove(variable);
    }
    for variable in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
        command.env_remove(variable);
    }
    command
}

fn run(words: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    jetlane(folder.path(), words).output().expect("the command runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn words_that_make_no_sense_end_with_2_before_any_server_is_asked() {
    for words in [
        &["submit", "a.*", "{}"][..],
        &["submit", "a.b", "{broken"],
        &["submit", "a.b", "@/nonexistent"],
        &["submit", "a.b", "{}", "--queue", "a.b"],
        &["submit", "a.b", "-"],
        &["result", "a.b"],
        &["result", "s7", "--type", "a.>"],
        &["watch", "*"],
        &["types", "set", "a..b", "--queue", "q"],
        &["types", "set", "a.b", "--queue", "q", "--schema", "/nonexistent"],
        &["types", "show", "a..b"],
        &["queues", "show", "a.b"],
        &["queues", "set", "a.b", "--pause"],
        &["queues", "set", "q", "--drop-fit", "a.b"],
        &["tasks", "explain", "a.b"],
        &["tasks", "explain", "s7", "--queue", "a.b"],
        &["record", "a.b"],
        &["-o", "json", "record", "q"],
        &["new", "executor", "../up"],
        &["fly"],
    ] {
        let output = run(&[&["--server", NOWHERE], words].concat());
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn a_server_that_does_not_answer_ends_with_7_and_says_what_to_do() {
    for words in [
        &["submit", "a.b"][..],
        &["result", "s7"],
        &["watch"],
        &["types", "ls"],
        &["types", "show", "a.b"],
        &["queues", "ls"],
        &["queues", "set", "q", "--pause"],
        &["tasks", "explain", "s7"],
        &["record", "q"],
    ] {
        let output = run(&[&["--server", NOWHERE], words].concat());
        assert_eq!(output.status.code(), Some(7), "{words:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
        assert!(text(&output.stderr).contains("jetlane dev"), "{}", text(&output.stderr));
    }
}

#[test]
fn command_reads_the_same_configuration_as_a_service_and_a_flag_goes_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |text: &str| std::fs::write(folder.path().join("jetlane.toml"), text).expect("written");
    // Each place names another closed port; the error names the one that was tried.
    let tried = |variables: &[(&str, &str)], words: &[&str]| {
        let mut command = jetlane(folder.path(), &[words, &["types", "ls"]].concat());
        let output = command.envs(variables.iter().copied()).output().expect("the command runs");
        assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    file("[nats]\nurl = \"nats://127.0.0.1:1\"\n");
    assert!(tried(&[], &[]).contains("127.0.0.1:1"));
    let common = ("NATS_URL", "nats://127.0.0.1:2");
    assert!(tried(&[common], &[]).contains("127.0.0.1:2"));
    let own = ("JETLANE_NATS_URL", "nats://127.0.0.1:3");
    assert!(tried(&[common, own], &[]).contains("127.0.0.1:3"));
    assert!(tried(&[common, own], &["--server", "nats://127.0.0.1:4"]).contains("127.0.0.1:4"));
}

#[test]
fn configuration_that_no_program_would_read_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for (file, wanted) in [
        ("[executer]\nslots = 4\n", "[executer]"),
        ("[nats]\nurls = \"nats://127.0.0.1:1\"\n", "urls"),
        ("[nats\n", "no TOML"),
    ] {
        std::fs::write(folder.path().join("jetlane.toml"), file).expect("written");
        for words in [&["doctor"][..], &["submit", "a.b"], &["run", "dispatcher"], &["run", "callback"]] {
            let output = jetlane(folder.path(), words).output().expect("the command runs");
            assert_eq!(output.status.code(), Some(2), "{words:?}: {}", text(&output.stderr));
            assert!(text(&output.stderr).contains(wanted), "{words:?}: {}", text(&output.stderr));
        }
    }
}

#[test]
fn flag_without_effect_is_refused() {
    for (words, flag) in [
        (&["dev", "--server", NOWHERE][..], "--server"),
        (&["dev", "-o", "json"], "--output"),
        (&["demo", "--server", NOWHERE], "--server"),
        (&["demo", "--creds", "x"], "--creds"),
        (&["bench", "idle", "--server", NOWHERE], "--server"),
        (&["new", "executor", "x", "--server", NOWHERE], "--server"),
        (&["simulate", "--creds", "x"], "--creds"),
        (&["run", "dispatcher", "-o", "json"], "--output"),
    ] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", text(&output.stderr));
        let said = text(&output.stderr);
        assert!(said.contains(flag) && said.contains("has no effect on"), "{words:?}: {said}");
    }
}

#[test]
fn service_connects_to_the_server_of_its_flag() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("nats://{}", listener.local_addr().expect("bound"));
    let mut command = jetlane(folder.path(), &["run", "dispatcher", "--server", &url]);
    let mut child = command.env("NATS_URL", NOWHERE).stderr(Stdio::null()).spawn().expect("the command runs");
    let (connected, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || connected.send(listener.accept().is_ok()));
    let is_connected = seen.recv_timeout(Duration::from_secs(20));
    child.kill().expect("it is ended");
    child.wait().expect("it has ended");
    assert_eq!(is_connected, Ok(true), "the service does not connect to the server of its flag");
}

#[test]
fn an_error_is_json_where_json_is_wanted() {
    let output = run(&["-o", "json", "--server", NOWHERE, "result", "s7"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON on stderr");
    assert_eq!(told["error"]["code"], 7);
    assert!(told["error"]["message"].as_str().is_some_and(|message| message.contains(NOWHERE)));
}

#[test]
fn a_body_on_stdin_is_read_to_its_end_and_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let submit = |body: &[u8]| {
        let mut command = jetlane(folder.path(), &["--server", NOWHERE, "submit", "a.b", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command runs");
        child.stdin.take().expect("a pipe").write_all(body).expect("written");
        child.wait_with_output().expect("it ends").status.code()
    };
    assert_eq!(submit(b"{\"a\":"), Some(2));
    // It is JSON, so that the server is asked.
    assert_eq!(submit(b"{\"a\":1}\n"), Some(7));
}

#[test]
fn doctor_tells_of_a_server_that_is_not_there_and_ends_with_9() {
    let output = run(&["-o", "json", "--server", NOWHERE, "doctor"]);
    assert_eq!(output.status.code(), Some(9), "{}", text(&output.stderr));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON on stdout");
    assert_eq!(told["ok"], false);
    let checks = told["checks"].as_array().expect("checks");
    let state = |name: &str| checks.iter().find(|check| check["check"] == name).map(|check| check["state"].clone());
    assert_eq!((state("server"), state("otlp")), (Some("fail".into()), Some("ok".into())));
    let table = run(&["--server", NOWHERE, "doctor"]);
    assert_eq!(table.status.code(), Some(9));
    assert!(text(&table.stdout).contains("FAIL") && text(&table.stdout).contains("jetlane dev"));
}
