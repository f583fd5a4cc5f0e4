//! Promises of this room. The last test starts itself again as the process that exports.

use super::otlp::{Protocol, wanted};
use super::*;
use opentelemetry::trace::Status;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};
use tracing::{Level, error, error_span, info, info_span, subscriber::with_default};

/// Log lines or spans, kept.
#[derive(Debug, Clone)]
struct Kept<T>(Arc<Mutex<Vec<T>>>);

impl Write for Kept<u8> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl SpanExporter for Kept<SpanData> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

/// What a process logs and exports while it does `work`.
fn run(logs: LogFormat, filter: &str, work: impl FnOnce()) -> (String, Vec<SpanData>) {
    let (lines, spans) = (Kept(Arc::default()), Kept(Arc::default()));
    let provider = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
    let writer = lines.clone();
    let log = filter::log(filter).unwrap();
    with_default(subscriber(logs, log, move || writer.clone(), Some(&provider)), work);
    provider.force_flush().unwrap();
    let spans = spans.0.lock().unwrap().clone();
    (String::from_utf8(lines.0.lock().unwrap().clone()).unwrap(), spans)
}

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

#[test]
fn without_an_endpoint_a_span_of_the_pipeline_is_disabled() {
    for (logs, filter) in [(LogFormat::Text, "info"), (LogFormat::Json, "trace")] {
        let log = filter::log(filter).unwrap();
        with_default(subscriber(logs, log, std::io::sink, None), || {
            assert!(!tracing::span_enabled!(target: "jetlane::span", Level::ERROR, "process"));
            assert!(info_span!(target: "jetlane::span", "process").is_disabled());
            assert!(!info_span!("of_a_user").is_disabled());
        });
    }
}

#[test]
fn the_log_never_holds_spans_of_the_pipeline() {
    let (log, spans) = run(LogFormat::Text, "info", || {
        let _entered = info_span!(target: "jetlane::span", "process", secret_field = 7).entered();
        info!(task = "t1", "Task completed.");
    });
    assert!(log.contains("Task completed.") && log.contains("t1") && !log.contains("secret_field"), "{log}");
    assert_eq!(spans.len(), 1);
    assert!(spans[0].events.events.is_empty(), "an info line is no event of the span");
}

#[test]
fn an_error_line_does_not_turn_a_span_red_unless_it_is_meant_for_the_span() {
    let (_, spans) = run(LogFormat::Text, "info", || {
        info_span!(target: "jetlane::span", "fine").in_scope(|| error!(error = "inner", "A thing inside failed."));
        info_span!(target: "jetlane::span", "red").in_scope(|| error!(target: "jetlane::span", "It failed."));
    });
    let [fine, red] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((&fine.status, fine.events.events.len()), (&Status::Unset, 0));
    assert!(matches!(red.status, Status::Error { .. }) && red.events.events.len() == 1);
    let keys: Vec<_> = fine.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert!(keys.is_empty(), "attributes that nobody asked for: {keys:?}");
}

#[test]
fn the_plumbing_of_the_export_is_never_traced() {
    let (_, spans) = run(LogFormat::Text, "info", || {
        let _export = error_span!(target: "tonic::transport", "request").entered();
        let _other = error_span!(target: "opentelemetry-otlp", "export").entered();
        let _user = info_span!(target: "my_app", "resize").entered();
        let _detail = tracing::debug_span!(target: "my_app", "loop").entered();
    });
    assert_eq!(spans.iter().map(|span| span.name.as_ref()).collect::<Vec<_>>(), ["resize"]);
}

#[test]
fn a_json_line_names_its_trace() {
    let (log, spans) = run(LogFormat::Json, "info", || {
        info!("Before.");
        let _entered = info_span!(target: "jetlane::span", "process").entered();
        info!(task = "t1", "Inside.");
    });
    let lines: Vec<&str> = log.lines().collect();
    assert!(!lines[0].contains("trace_id"), "{log}");
    let ids = format!(
        r#""trace_id":"{}","span_id":"{}"}}"#,
        spans[0].span_context.trace_id(),
        spans[0].span_context.span_id()
    );
    assert!(lines[1].starts_with('{') && lines[1].ends_with(&ids) && lines[1].contains(r#""task":"t1""#), "{log}");
}

#[test]
fn spans_are_exported_where_the_variables_say_so() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    let grpc = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317/");
    let protocol = |name| ("OTEL_EXPORTER_OTLP_PROTOCOL", name);
    for (said, protocol) in [
        (vec![], None),
        (vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "")], None),
        (vec![endpoint], Some(Protocol::Http)),
        (vec![grpc], Some(Protocol::Grpc)),
        (vec![grpc, protocol("http/protobuf")], Some(Protocol::Http)),
        (vec![endpoint, protocol("grpc")], Some(Protocol::Grpc)),
        (vec![grpc, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/v1/traces")], Some(Protocol::Http)),
        (vec![endpoint, ("OTEL_SDK_DISABLED", "True")], None),
        (vec![endpoint, ("OTEL_SDK_DISABLED", "false")], Some(Protocol::Http)),
        (vec![endpoint, ("OTEL_TRACES_EXPORTER", "none")], None),
        (vec![endpoint, ("OTEL_TRACES_EXPORTER", "console,otlp")], Some(Protocol::Http)),
    ] {
        assert_eq!(wanted(&variables(&said)).unwrap(), protocol, "{said:?}");
    }
    let error = wanted(&variables(&[endpoint, protocol("http/json")])).unwrap_err().to_string();
    assert!(error.contains("OTEL_EXPORTER_OTLP_PROTOCOL") && error.contains("http/json"), "{error}");
}

#[test]
fn a_variable_of_the_log_that_is_not_understood_is_named() {
    let error = Telemetry::new("t", "1", &variables(&[("JETLANE_LOG_FORMAT", "xml")])).unwrap_err();
    assert!(error.to_string().contains("JETLANE_LOG_FORMAT=\"xml\" is wrong"), "{error}");
    let error = filter::log("info,a=b=c").unwrap_err();
    assert!(error.to_string().contains("JETLANE_LOG"), "{error}");
}

const CHILD: &str = "JETLANE_TEST_EXPORTER";

/// What a process does that exports one span.
async fn export_one() {
    let variables = std::env::vars().collect();
    let guard = init(&Telemetry::new("dispatcher", "1.2.3", &variables).unwrap()).unwrap();
    assert!(guard.exports());
    info_span!(target: "jetlane::span", "publish of a test").in_scope(|| ());
    guard.shutdown().await;
}

/// Answers one request and returns its head and body.
fn receive(listener: &TcpListener) -> (String, Vec<u8>) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "the request ended in its head");
    }
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    (head, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_span_leaves_under_the_name_of_its_service() {
    if std::env::var_os(CHILD).is_some() {
        return export_one().await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let this = std::thread::current().name().unwrap().to_owned();
    let mut command = Command::new(std::env::current_exe().unwrap());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    let mut child = command
        .args(["--exact", &this])
        .env(CHILD, "1")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", listener.local_addr().unwrap()))
        .spawn()
        .unwrap();
    let (head, body) = receive(&listener);
    assert!(head.starts_with("post /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
    for text in ["service.name", "dispatcher", "service.namespace", "service.instance.id", "publish of a test"] {
        assert!(body.windows(text.len()).any(|part| part == text.as_bytes()), "{text} is not exported");
    }
    assert!(child.wait().unwrap().success());
}
