//! What the trace must look like, whoever tells of it.

use super::span::{self, Kind, Span};
use super::task::{FOLLOW_UP, TASK};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The processes, by their names in traces.
pub(super) const SERVICES: [&str; 4] = ["submitter", "dispatcher", "executor", "callback"];

/// Children stand below their parent in the order in which they began. Attempts are siblings, and
/// what a completion triggers stands below it.
const TREE: &str = "\
submitter   submit jetlane.fail                   internal
submitter     publish jetlane.task.default        producer
dispatcher      dispatch default                  client    attempt 1
executor        process jetlane.fail              consumer  attempt 1  error
dispatcher      dispatch default                  client    attempt 2
executor        process jetlane.fail              consumer  attempt 2
executor          complete jetlane.fail           producer  attempt 2
callback            callback subject              producer
callback            callback task jetlane.echo    internal
callback              submit jetlane.echo         internal
callback                publish jetlane.task.default  producer
dispatcher                dispatch default        client    attempt 1
executor                  process jetlane.echo    consumer  attempt 1
executor                    complete jetlane.echo  producer  attempt 1
callback                      callback subject    producer
";

/// What each cause of waiting is told by, in milliseconds.
const WAITS: [&str; 4] =
    ["jetlane.wait.intake_ms", "jetlane.wait.delay_ms", "jetlane.wait.window_ms", "jetlane.wait.credit_ms"];
/// More than any wait of this task, less than a time since the epoch.
const WAIT_MS_MAX: f64 = 60_000.0;

/// Says what is wrong with a trace, or nothing.
pub(super) fn check(spans: &[Span], trace_id: &str) -> Result<(), String> {
    let traces: BTreeSet<&str> = spans.iter().map(|span| span.trace_id.as_str()).collect();
    ensure(traces == BTreeSet::from([trace_id]), || format!("one trace, {trace_id}, is wanted, not {traces:?}"))?;
    let tree = tree(spans)?;
    ensure(words(&tree) == words(TREE), || format!("wanted:\n{TREE}\nbut it is:\n{tree}"))?;
    processes_are_told_apart(spans)?;
    for span in spans {
        let named = |wrong: String| format!("{} of the {}: {wrong}\n{span:#?}", span.name, span.service());
        times_are_right(span).map_err(named)?;
        names_are_few(span).map_err(named)?;
        messaging_is_told(span).map_err(named)?;
        task_is_told(span).map_err(named)?;
    }
    failed_attempt_says_why(spans)
}

fn ensure(right: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if right { Ok(()) } else { Err(wrong()) }
}

/// The tree as text. Spans that hang in the air, or twice, are told.
fn tree(spans: &[Span]) -> Result<String, String> {
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    ensure(ids.len() == spans.len(), || "a span came twice".into())?;
    let mut children: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        let known = span.parent.is_empty() || ids.contains(span.parent.as_str());
        ensure(known, || format!("the parent of {} of the {} is missing", span.name, span.service()))?;
        children.entry(span.parent.as_str()).or_default().push(span);
    }
    // Callbacks of one completion go out at once, in no order.
    let place = |span: &&Span| if span.name.starts_with("callback") { u64::MAX } else { span.started_ns };
    children.values_mut().for_each(|siblings| siblings.sort_by_key(|span| (place(span), span.name.clone())));
    let mut text = String::new();
    write_below("", 0, &children, &mut text);
    ensure(text.lines().count() == spans.len(), || format!("spans stand in a circle:\n{text}"))?;
    Ok(text)
}

fn write_below(parent: &str, depth: usize, children: &BTreeMap<&str, Vec<&Span>>, text: &mut String) {
    for span in children.get(parent).into_iter().flatten() {
        let kind = format!("{:?}", span.kind).to_lowercase();
        let attempt = span.number("jetlane.task.attempt").map_or(String::new(), |n| format!("  attempt {n}"));
        let error = if span.error.is_some() { "  error" } else { "" };
        let name = format!("{:1$}{2}", "", depth * 2, span.name);
        writeln!(text, "{:<11} {name:<37} {kind}{attempt}{error}", span.service()).expect("text takes all");
        write_below(&span.id, depth + 1, children, text);
    }
}

/// The same lines but for their columns; how deep a line stands counts.
fn words(tree: &str) -> Vec<(usize, Vec<&str>)> {
    let depth = |line: &str| line.char_indices().skip(11).find(|(_, c)| *c != ' ').map_or(0, |(at, _)| at);
    tree.lines().map(|line| (depth(line), line.split_whitespace().collect())).collect()
}

/// One name a role, one instance a process, and no instance in two roles.
fn processes_are_told_apart(spans: &[Span]) -> Result<(), String> {
    let of = |span: &Span, key| span::text(&span.resource, key).to_owned();
    let found: BTreeSet<(String, String)> =
        spans.iter().map(|span| (of(span, "service.name"), of(span, "service.instance.id"))).collect();
    let services: BTreeSet<&str> = found.iter().map(|(service, _)| service.as_str()).collect();
    let instances: BTreeSet<&str> = found.iter().map(|(_, instance)| instance.as_str()).collect();
    ensure(services == SERVICES.into(), || format!("services {services:?}"))?;
    ensure(found.len() == SERVICES.len() && instances.len() == SERVICES.len(), || format!("instances {found:?}"))?;
    ensure(!instances.contains(""), || format!("a service.instance.id is missing: {found:?}"))?;
    let namespace = |span: &Span| of(span, "service.namespace") == "jetlane" && !of(span, "service.version").is_empty();
    ensure(spans.iter().all(namespace), || "service.namespace or service.version is missing".into())
}

fn times_are_right(span: &Span) -> Result<(), String> {
    ensure(span.started_ns <= span.ended_ns, || "it ends before it begins".into())?;
    // A link to what is the parent anyway would be a second arrow to the same place.
    ensure(span.links == 0, || "it has links".into())
}

/// What is different for every task must not be in a name: names are grouped, searched and counted by.
fn names_are_few(span: &Span) -> Result<(), String> {
    let id = span.text("jetlane.task.id");
    for name in [span.name.as_str(), span.text("messaging.destination.template")] {
        ensure(!name.contains(id), || format!("{name} has the task's id"))?;
    }
    // The callback's is the subject that the submitter chose.
    ensure(!span.text("messaging.destination.name").contains(id), || "the destination has the task's id".into())
}

/// OpenTelemetry's messaging conventions.
fn messaging_is_told(span: &Span) -> Result<(), String> {
    let operation = span.text("messaging.operation.name");
    if matches!(span.kind, Kind::Internal) {
        return ensure(operation.is_empty(), || "inside a process nothing is sent".into());
    }
    ensure(span.text("messaging.system") == "nats", || "messaging.system".into())?;
    let first = span.name.split(' ').next();
    ensure(first == Some(operation), || format!("the name begins with another operation than {operation:?}"))?;
    // Where the context of a sending span travels with the message it is a producer, else a client.
    let kinds: &[Kind] = match span.text("messaging.operation.type") {
        "send" => &[Kind::Producer, Kind::Client],
        "process" => &[Kind::Consumer],
        other => return Err(format!("messaging.operation.type {other:?}")),
    };
    ensure(kinds.contains(&span.kind), || format!("kind {:?}", span.kind))?;
    let destination = span.text("messaging.destination.name");
    let wanted = match operation {
        "publish" => "jetlane.task.default".to_owned(),
        "dispatch" | "process" => "jetlane.bundle.default.normal.any".to_owned(),
        "complete" => format!("jetlane.done.{}", span.text("jetlane.task.type")),
        "callback" => "trace.heard.".to_owned(),
        other => return Err(format!("messaging.operation.name {other:?}")),
    };
    let right = destination == wanted || (operation == "callback" && destination.starts_with(&wanted));
    ensure(right, || format!("messaging.destination.name {destination:?}"))?;
    let group = span.text("messaging.consumer.group.name");
    ensure(operation != "process" || group == "bundle-default-normal-any", || format!("consumer group {group:?}"))?;
    let message = span.text("messaging.message.id");
    ensure(message.contains(span.text("jetlane.task.id")), || format!("messaging.message.id {message:?}"))
}

/// Every span names its task, and a dispatch what the task waited for.
fn task_is_told(span: &Span) -> Result<(), String> {
    ensure(!span.text("jetlane.task.id").is_empty(), || "jetlane.task.id".into())?;
    let task_type = span.text("jetlane.task.type");
    ensure([TASK, FOLLOW_UP].contains(&task_type), || format!("jetlane.task.type {task_type:?}"))?;
    let waits: &[&str] = match span.name.split(' ').next() {
        Some("dispatch") => &WAITS,
        Some("process") => &["jetlane.wait_ms"],
        _ => &[],
    };
    for wait in waits {
        let ms = span.number(wait);
        ensure(ms.is_some_and(|ms| (0.0..WAIT_MS_MAX).contains(&ms)), || format!("{wait} is {ms:?}"))?;
    }
    Ok(())
}

/// The attempt that failed says why, for people and for those who count; the other has nothing to say.
fn failed_attempt_says_why(spans: &[Span]) -> Result<(), String> {
    for span in spans.iter().filter(|span| span.kind == Kind::Consumer) {
        let (why, class) = (span.error.as_deref(), span.text("error.type"));
        let right = match why {
            Some(sentence) => !sentence.is_empty() && !class.is_empty(),
            None => class.is_empty(),
        };
        ensure(right, || format!("{}: error {why:?}, error.type {class:?}", span.name))?;
    }
    Ok(())
}
