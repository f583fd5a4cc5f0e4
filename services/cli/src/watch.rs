//! `jetlane watch`: completions as they come, a line each.

use crate::args::Watch;
use crate::dev::interrupted;
use crate::output::{Exit, Failure, Output, took};
use crate::reach::{self, Nats};
use crate::result::{NO_STREAMS, as_json, plain};
use jetlane::{Completion, Failure as TaskFailure, Outcome, Priority, QueueName, TaskId, TaskType};
use jetlane_bus::clock;
use jetlane_schemas::{Micros, Tenant};
use serde::Serialize;
use serde_json::value::RawValue;
use std::io::Write as _;

/// A completion as programs read it. The names are a contract.
#[derive(Debug, Serialize)]
struct Told<'a> {
    id: &'a TaskId,
    #[serde(rename = "type")]
    task_type: &'a TaskType,
    queue: Option<&'a QueueName>,
    outcome: Outcome,
    attempt: u32,
    run: u32,
    tenant: &'a Tenant,
    priority: Priority,
    submitted_at: Option<String>,
    finished_at: Option<String>,
    wait_ms: f64,
    run_ms: f64,
    late: bool,
    cut: bool,
    parent: Option<&'a TaskId>,
    trace_id: Option<&'a str>,
    output: Option<Box<RawValue>>,
    failure: Option<TaskFailure>,
}

/// Prints completions until Ctrl-C, the limit, or the end of whoever reads them.
pub(crate) async fn run(nats: &Nats, args: &Watch, output: &Output) -> Result<Exit, Failure> {
    let task_type = args.task_type.as_deref().map(TaskType::new).transpose();
    let task_type = task_type.map_err(|error| Failure::of(Exit::Usage, &error))?;
    let client = reach::client(nats).await?;
    let mut wanted = client.completions();
    if let Some(task_type) = task_type {
        wanted = wanted.of_type(Ok(task_type));
    }
    if let Some(outcome) = args.outcome {
        wanted = wanted.outcome(outcome);
    }
    if args.all {
        wanted = wanted.from_the_beginning();
    }
    let mut completions = wanted.await.map_err(|error| Failure::from(error).help(NO_STREAMS))?;
    let mut stop = std::pin::pin!(interrupted());
    // Signals are heard from the first poll on, and whoever reads the head may send one.
    if futures::poll!(&mut stop).is_ready() {
        return Ok(Exit::Interrupted);
    }
    if !output.is_json() && !print(&head()) {
        return Ok(Exit::Ok);
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let received = tokio::select! {
            received = completions.next() => received,
            () = &mut stop => return Ok(Exit::Interrupted),
        };
        let Some(received) = received else {
            return Err(Failure::new(Exit::Unreachable, "the connection was closed"));
        };
        let received = received?;
        let line = if output.is_json() { json(&received.completion) } else { row(&received.completion) };
        if !print(&line) {
            // The reader has seen enough (`| head`).
            return Ok(Exit::Ok);
        }
        received.ack().await?;
        left -= 1;
    }
    Ok(Exit::Ok)
}

/// Prints a line; says whether anybody still reads.
fn print(line: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).is_ok()
}

fn json(completion: &Completion) -> String {
    let time = |at: Micros| (at.0 > 0).then(|| clock::rfc3339(at));
    let known = completion.submitted_at.0 > 0;
    let succeeded = completion.outcome == Outcome::Succeeded;
    let told = Told {
        id: &completion.id,
        task_type: &completion.task_type,
        queue: completion.queue.as_ref(),
        outcome: completion.outcome,
        attempt: completion.attempt,
        run: completion.run,
        tenant: &completion.tenant,
        priority: completion.priority,
        submitted_at: time(completion.submitted_at),
        finished_at: time(completion.finished_at).filter(|_| known),
        wait_ms: completion.wait_ms,
        run_ms: completion.run_ms,
        late: completion.late,
        cut: completion.cut,
        parent: completion.parent.as_ref(),
        trace_id: completion.trace.trace_id(),
        output: succeeded.then(|| one_line(&completion.body)),
        failure: completion.failure(),
    };
    serde_json::to_string(&told).expect("its keys are text and its numbers finite")
}

/// The output as it was written, but in one line: between its tokens a line's end is white space.
fn one_line(body: &[u8]) -> Box<RawValue> {
    let text = as_json(body).replace(['\n', '\r'], " ");
    RawValue::from_string(text).expect("it was JSON, and still is")
}

fn head() -> String {
    columns("TIME", "OUTCOME", "TYPE", "ID", ["ATTEMPT", "WAIT", "RUN"], "FAILURE")
}

fn row(completion: &Completion) -> String {
    let finished = clock::rfc3339(completion.finished_at);
    let time = finished.get(11..19).filter(|_| completion.submitted_at.0 > 0).unwrap_or("-");
    let failure = completion.failure().map(|failure| plain(&failure.to_string())).unwrap_or_default();
    columns(
        time,
        completion.outcome.as_str(),
        completion.task_type.as_str(),
        completion.id.as_str(),
        [&completion.attempt.to_string(), &took(completion.wait_ms), &took(completion.run_ms)],
        failure.lines().next().unwrap_or_default(),
    )
}

fn columns(time: &str, outcome: &str, task_type: &str, id: &str, numbers: [&str; 3], failure: &str) -> String {
    let [attempt, wait, run] = numbers;
    let line =
        format!("{time:<8}  {outcome:<9}  {task_type:<20}  {id:<32}  {attempt:>7}  {wait:>8}  {run:>8}  {failure}");
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::TaskEvent;

    fn completion(outcome: Outcome, body: &[u8]) -> Completion {
        let (id, task_type) = (TaskId::new("s7"), TaskType::new("a.b"));
        let (id, task_type) = (id.expect("valid"), task_type.expect("valid"));
        let at = Micros(1_700_000_000_000_000);
        let task = TaskEvent::new(id, task_type, QueueName::default_queue(), at, Vec::new());
        Completion { body: body.to_vec(), wait_ms: 2.5, ..Completion::of(&task, outcome, at) }
    }

    #[test]
    fn a_completion_is_one_line_of_json_with_the_output_as_it_was_written() {
        let line = json(&completion(Outcome::Succeeded, b"{\n \"n\": 123456789012345678901\r\n}"));
        assert!(line.contains(r#""output":{  "n": 123456789012345678901  },"failure":null"#), "{line}");
        assert!(!line.contains(['\n', '\r']));
        let told: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&told["type"], &told["submitted_at"]), (&"a.b".into(), &"2023-11-14T22:13:20Z".into()));
    }

    #[test]
    fn a_failure_of_many_lines_is_one_line_that_cannot_steer_the_terminal() {
        let line = row(&completion(Outcome::Failed, b"first \x1b[2J\nsecond"));
        assert!(line.ends_with("handler: first \u{fffd}[2J"), "{line}");
        assert!(line.starts_with("22:13:20  failed     a.b "), "{line}");
    }
}
