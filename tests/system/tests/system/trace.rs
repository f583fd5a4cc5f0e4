//! Promise: one task is one trace, from the submission to the last callback, over all processes.

mod jaeger;
mod receiver;
mod shape;
mod span;
mod task;

use jaeger::Jaeger;
use receiver::Receiver;

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
}

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
    jaeger.until(&trace_id, |spans| shape::check(&spans, &trace_id)).await;
    for service in shape::SERVICES {
        jaeger.until_found_by(service, begun, &trace_id).await;
    }
}
