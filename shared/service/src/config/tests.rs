//! Promises of this room. No test reads or changes the environment of its process.

use super::*;
use std::error::Error as _;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    slots: u16,
    name: String,
    mode: Mode,
    #[serde(with = "duration")]
    pause: Duration,
    tags: Vec<String>,
    hooks: BTreeMap<String, Hook>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Fast,
    Safe,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hook {
    url: String,
}

impl Default for Settings {
    fn default() -> Self {
        let pause = Duration::from_secs(1);
        Self { slots: 4, name: "a".into(), mode: Mode::Safe, pause, tags: Vec::new(), hooks: BTreeMap::new() }
    }
}

fn sources(file: &str, variables: &[(&str, &str)]) -> Sources {
    let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Sources::new(variables, Some(("etc/jetlane.toml".into(), file.into())))
}

fn load(file: &str, variables: &[(&str, &str)]) -> Result<Settings, Error> {
    sources(file, variables).load("dispatcher")
}

/// The whole chain, as a process prints it.
fn refusal(file: &str, variables: &[(&str, &str)]) -> String {
    let error = load(file, variables).expect_err("a wrong configuration was taken");
    format!("{error}: {}", error.source().map(ToString::to_string).unwrap_or_default())
}

#[test]
fn a_variable_goes_before_the_file_and_the_file_before_the_default() {
    let file = "[dispatcher]\nslots = 8\nname = \"b\"\npause = \"250ms\"\n[executor]\nanything = true\n";
    let settings = load(file, &[("JETLANE_DISPATCHER_SLOTS", "16"), ("JETLANE_EXECUTOR_SLOTS", "99")]).unwrap();
    let pause = Duration::from_millis(250);
    assert_eq!(settings, Settings { slots: 16, name: "b".into(), pause, ..Settings::default() });
    assert_eq!(Sources::default().load::<Settings>("dispatcher").unwrap(), Settings::default());
}

#[test]
fn a_variable_says_text_numbers_lists_and_nested_fields() {
    let settings = load(
        "[dispatcher.hooks.billing]\nurl = \"old\"\n[dispatcher.hooks.audit]\nurl = \"kept\"",
        &[
            ("JETLANE_DISPATCHER_NAME", "123"),
            ("JETLANE_DISPATCHER_MODE", "fast"),
            ("JETLANE_DISPATCHER_TAGS", "[\"x\", \"y\"]"),
            ("JETLANE_DISPATCHER_HOOKS__BILLING__URL", "new"),
            ("JETLANE_DISPATCHER_SLOTS", ""),
        ],
    )
    .unwrap();
    assert_eq!((settings.name.as_str(), settings.mode, settings.slots), ("123", Mode::Fast, 4));
    assert_eq!(settings.tags, ["x", "y"]);
    assert_eq!((settings.hooks["billing"].url.as_str(), settings.hooks["audit"].url.as_str()), ("new", "kept"));
}

#[test]
fn a_wrong_value_names_the_variable_or_the_place_in_the_file() {
    for (file, variables, wanted) in [
        ("", [("JETLANE_DISPATCHER_SLOTS", "many")], vec!["JETLANE_DISPATCHER_SLOTS is wrong", "many"]),
        ("", [("JETLANE_DISPATCHER_SLOTS", "70000")], vec!["JETLANE_DISPATCHER_SLOTS is wrong", "70000"]),
        ("", [("JETLANE_DISPATCHER_MODE", "wild")], vec!["JETLANE_DISPATCHER_MODE is wrong", "wild"]),
        ("", [("JETLANE_DISPATCHER_PAUSE", "soon")], vec!["JETLANE_DISPATCHER_PAUSE is wrong", "soon", "30s"]),
        ("", [("JETLANE_DISPATCHER_TAGS", "[1,")], vec!["JETLANE_DISPATCHER_TAGS is wrong"]),
        ("", [("JETLANE_DISPATCHER_SLOTZ", "1")], vec!["JETLANE_DISPATCHER_SLOTZ is wrong", "unknown field"]),
        (
            "[dispatcher]\nslots = \"many\"",
            [("JETLANE_DISPATCHER_NAME", "x")],
            vec!["`slots` in [dispatcher] of etc/jetlane.toml is wrong", "many"],
        ),
        (
            "[dispatcher]\nslotz = 1",
            [("JETLANE_DISPATCHER_NAME", "x")],
            vec!["`slotz` in [dispatcher] of etc/jetlane.toml is wrong", "unknown field `slotz`"],
        ),
        (
            "[dispatcher.hooks.a]\nurl = [1]",
            [("JETLANE_DISPATCHER_NAME", "x")],
            vec!["`hooks.a.url` in [dispatcher] of etc/jetlane.toml is wrong"],
        ),
        ("[dispatcher\n", [("X", "")], vec!["etc/jetlane.toml is no TOML"]),
        ("dispatcher = 3", [("X", "")], vec!["[dispatcher] of etc/jetlane.toml is wrong"]),
    ] {
        let said = refusal(file, &variables);
        assert!(wanted.iter().all(|part| said.contains(part)), "{said:?} lacks one of {wanted:?}");
    }
}

#[test]
fn a_missing_value_names_both_places_that_could_say_it() {
    let said = refusal("", &[("JETLANE_DISPATCHER_HOOKS__A", "{}")]);
    assert!(said.contains("JETLANE_DISPATCHER_HOOKS__A__URL") && said.contains("[dispatcher]"), "{said}");
}

#[test]
fn what_kubernetes_adds_for_a_service_is_no_setting() {
    let links = [
        ("JETLANE_DISPATCHER_PORT", "tcp://10.0.0.1:80"),
        ("JETLANE_DISPATCHER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("JETLANE_DISPATCHER_SERVICE_HOST", "10.0.0.1"),
        ("JETLANE_DISPATCHER_SERVICE_PORT", "80"),
    ];
    assert_eq!(load("", &links).unwrap(), Settings::default());
}

#[test]
fn section_that_no_program_reads_is_refused_with_those_that_are() {
    let check = |file: &str, own| sources(file, &[]).check_sections(own).map_err(|error| error.to_string());
    assert_eq!(check("[dispatcher]\nslots = 1\n[nats]\n[executor]\n[callback]\n", None), Ok(()));
    assert_eq!(check("[billing]\n", Some("billing")), Ok(()));
    for file in ["[executer]\nslots = 1\n", "[dispatcher]\n[billing.a]\n", "slots = 3\n"] {
        let refused = check(file, None).expect_err(file);
        assert!(refused.contains("of etc/jetlane.toml is no section") && refused.contains("executor"), "{refused}");
    }
    assert_eq!(Sources::default().check_sections(None).map_err(|error| error.to_string()), Ok(()));
}

#[test]
fn variable_that_nobody_reads_is_found() {
    let read = [
        ("JETLANE_CONFIG", "x"),
        ("JETLANE_LOG", "info"),
        ("JETLANE_DISPATCHER_SLOTS", "1"),
        ("JETLANE_NATS_URL", "x"),
        ("JETLANE_GATEWAY_PORT_80_TCP_ADDR", "x"),
        ("JETLANE_GATEWAY_SERVICE_HOST", "x"),
        ("PATH", "x"),
        ("RUST_LOG", "x"),
        ("JETLANE_BILLING_RATE", "1"),
    ];
    assert_eq!(sources("", &read).unread_variables(Some("billing")), Vec::<&str>::new());
    let unread = [("JETLANE_EXECUTER_SLOTS", "4"), ("JETLANE_LOGS", "x"), ("JETLANE_EXECUTOR_SLOTS", "4")];
    assert_eq!(sources("", &unread).unread_variables(None), ["JETLANE_EXECUTER_SLOTS", "JETLANE_LOGS"]);
}

#[test]
fn every_process_takes_its_own_fields_from_the_section_of_its_service() {
    let file = "[dispatcher]\nslots = 8\ndrain_time = \"5s\"";
    let sources = sources(file, &[("JETLANE_DISPATCHER_HEALTH_PORT", "8080")]);
    let (process, settings): (Process, Settings) = sources.load_service("dispatcher").unwrap();
    assert_eq!(process, Process { health_port: Some(8080), drain_time: Duration::from_secs(5) });
    assert_eq!(settings.slots, 8);
    let wrong = super::tests::sources("", &[("JETLANE_DISPATCHER_DRAIN_TIME", "never")]);
    let error = wrong.load_service::<Settings>("dispatcher").unwrap_err();
    assert!(error.to_string().contains("JETLANE_DISPATCHER_DRAIN_TIME"), "{error}");
}

#[test]
fn the_broker_is_where_the_nearest_word_says() {
    let file = "[nats]\nurl = \"nats://file:1\"\nname = \"n\"";
    let url = |variables: &[(&str, &str)]| Nats::load(&sources(file, variables)).unwrap().url;
    assert_eq!(Nats::load(&Sources::default()).unwrap(), Nats::default());
    assert_eq!(url(&[]), "nats://file:1");
    assert_eq!(url(&[("NATS_URL", "nats://env:1"), ("JETLANE_NATS_SERVER", "/usr/bin/nats-server")]), "nats://env:1");
    assert_eq!(url(&[("NATS_URL", "nats://env:1"), ("JETLANE_NATS_URL", "nats://own:1")]), "nats://own:1");
}
