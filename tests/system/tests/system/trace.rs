//! Promise: one task is one trace, from the submission to the last callback, over all processes.

mod jaeger;
mod receiver;
mod shape;
mod span;
mod task;

use jaeger::Jaeger;
use receiver::Receiver;
use span::Span;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_fails_once_and_calls_back_is_one_trace() {
    if task::is_submitter() {
        return task::submit().await;
    }
    let receiver = Receiver::start().await;
    let trace_id = task::trace_one(&receiver.url()).await;
    // Every process has ended and waited for its last export: nothing is still on its way.
    let spans = receiver.spans();
    shape::check(&spans, &trace_id).unwrap_or_else(|wrong| panic!("{wrong}"));
    for (fault, spoil) in FAULTS {
        let mut spoilt = spans.clone();
        for span in &mut spoilt {
            spoil(span);
        }
        assert!(shape::check(&spoilt, &trace_id).is_err(), "{fault} would go unseen");
    }
    assert!(shape::check(&spans[1..], &trace_id).is_err(), "a lost span would go unseen");
}

/// A name, and what it does to every span.
type Fault = (&'static str, fn(&mut Span));

/// What a check that is worth its name does not let pass.
const FAULTS: [Fault; 9] = [
    ("a trace for each process", |span| span.trace_id = span.service().to_owned()),
    ("attempts below each other", |span| {
        if span.name.starts_with("process") {
            span.parent.clear();
        }
    }),
    ("attempts of one number", |span| drop(span.attributes.insert("jetlane.task.attempt".into(), 1.into()))),
    ("a number that is text", |span| drop(span.attributes.insert("jetlane.wait_ms".into(), "1.5".into()))),
    ("a failure that is not red", |span| span.error = None),
    ("one name for all services", |span| drop(span.resource.insert("service.name".into(), "jetlane".into()))),
    ("one instance for all", |span| drop(span.resource.insert("service.instance.id".into(), "1".into()))),
    ("a message of no system", |span| drop(span.attributes.remove("messaging.system"))),
    ("an id in a name", |span| span.name = format!("{} {}", span.name, span.text("jetlane.task.id"))),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jaeger_finds_the_trace_by_its_id_and_by_every_service() {
    if task::is_submitter() {
        return task::submit().await;
    }
    let Some(jaeger) = Jaeger::find().await else {
        eprintln!(
            "skipped: no Jaeger by JAEGER_URL, JAEGER, on PATH or in the cache (tests/jaeger/build.sh builds one)"
        );
        return;
    };
    let begun = jetlane_bus::clock::now();
    let trace_id = task::trace_one(jaeger.otlp()).await;
    eprintln!("trace: {}", jaeger.page(&trace_id));
    jaeger.until(&trace_id, |spans| shape::check(spans, &trace_id)).await;
    for service in shape::SERVICES {
        jaeger.until_found_by(service, begun, &trace_id).await;
    }
}
