//! What a webhook's receiver reads: the completion as one JSON object.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jetlane_bus::clock;
use jetlane_schemas::{Completion, Failure, Outcome, PayloadCodec, TaskId};
use serde::Serialize;
use serde_json::value::RawValue;

#[derive(Serialize)]
struct Body<'a> {
    id: &'a TaskId,
    #[serde(rename = "type")]
    task_type: &'a str,
    outcome: Outcome,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
    priority: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tenant: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<&'a TaskId>,
    #[serde(skip_serializing_if = "String::is_empty")]
    submitted_at: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    finished_at: String,
    wait_ms: f64,
    run_ms: f64,
    #[serde(skip_serializing_if = "is_not_set")]
    late: bool,
    #[serde(skip_serializing_if = "is_not_set")]
    cut: bool,
    #[serde(flatten)]
    result: ResultOf<'a>,
}

/// The member that says what came of the task.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum ResultOf<'a> {
    /// The output, as the handler wrote it.
    Output(&'a RawValue),
    /// An output that is no JSON.
    OutputBase64(String),
    /// Why there is none.
    Error(Failure),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands the field over by reference")]
fn is_not_set(flag: &bool) -> bool {
    !flag
}

/// Writes the body.
pub(crate) fn write(completion: &Completion) -> String {
    let time = |at: jetlane_schemas::Micros| if at.0 == 0 { String::new() } else { clock::rfc3339(at) };
    let body = Body {
        id: &completion.id,
        task_type: completion.task_type.as_str(),
        outcome: completion.outcome,
        attempt: completion.attempt,
        queue: completion.queue.as_ref().map(jetlane_schemas::QueueName::as_str),
        priority: completion.priority.as_str(),
        tenant: completion.tenant.as_str(),
        parent: completion.parent.as_ref(),
        submitted_at: time(completion.submitted_at),
        finished_at: time(completion.finished_at),
        wait_ms: completion.wait_ms,
        run_ms: completion.run_ms,
        late: completion.late,
        cut: completion.cut,
        result: result(completion),
    };
    serde_json::to_string(&body).expect("text, finite numbers and JSON that was read are JSON")
}

fn result(completion: &Completion) -> ResultOf<'_> {
    if let Some(failure) = completion.failure() {
        return ResultOf::Error(failure);
    }
    let json = || std::str::from_utf8(&completion.body).ok().and_then(|text| serde_json::from_str(text).ok());
    match (completion.codec, json()) {
        (PayloadCodec::Json, Some(output)) => ResultOf::Output(output),
        _ => ResultOf::OutputBase64(STANDARD.encode(&completion.body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::{Micros, QueueName, TaskEvent, TaskType};
    use serde_json::{Value, json};

    fn completion(outcome: Outcome, body: &[u8]) -> Completion {
        let task = TaskEvent::new(
            TaskId::from_sequence(12),
            TaskType::new("image.thumbnail").expect("valid"),
            QueueName::new("pictures").expect("valid"),
            Micros(1_700_000_000_000_000),
            Vec::new(),
        );
        let mut completion = Completion::of(&task, outcome, Micros(1_700_000_001_500_000));
        (completion.attempt, completion.wait_ms, completion.run_ms) = (2, 1.5, 40.25);
        completion.body = body.to_vec();
        completion
    }

    fn written(completion: &Completion) -> Value {
        serde_json::from_str(&write(completion)).expect("JSON")
    }

    #[test]
    fn a_success_is_told_with_its_output_as_the_handler_wrote_it() {
        let found = write(&completion(Outcome::Succeeded, br#"{"b":1.0,"a":12345678901234567890123}"#));
        assert_eq!(
            found,
            r#"{"id":"s12","type":"image.thumbnail","outcome":"succeeded","attempt":2,"queue":"pictures","priority":"normal","submitted_at":"2023-11-14T22:13:20Z","finished_at":"2023-11-14T22:13:21.5Z","wait_ms":1.5,"run_ms":40.25,"output":{"b":1.0,"a":12345678901234567890123}}"#
        );
    }

    #[test]
    fn a_failure_is_told_with_its_error_and_no_output() {
        let failed = completion(Outcome::Failed, b"").with_failure(Failure::new("corrupt", "torn"));
        let found = written(&failed);
        assert_eq!(found["error"], json!({"code": "corrupt", "message": "torn"}));
        assert_eq!((found.get("output"), found["outcome"].as_str()), (None, Some("failed")));
    }

    #[test]
    fn an_output_that_is_no_json_does_not_break_the_body() {
        for body in [b"".as_slice(), b"{\"cut", b"\xff\xfe", b"{} trailing"] {
            let found = written(&completion(Outcome::Succeeded, body));
            let text = found["output_base64"].as_str().expect("text");
            assert_eq!(STANDARD.decode(text).expect("base64"), body);
        }
        let mut framed = completion(Outcome::Succeeded, b"7");
        framed.codec = PayloadCodec::Bincode;
        assert_eq!(written(&framed)["output_base64"], json!(STANDARD.encode(b"7")));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut bare = completion(Outcome::Cancelled, b"");
        (bare.queue, bare.submitted_at, bare.finished_at) = (None, Micros(0), Micros(0));
        let found = written(&bare);
        for absent in ["queue", "tenant", "parent", "submitted_at", "finished_at", "late", "cut"] {
            assert_eq!(found.get(absent), None, "{absent}");
        }
    }
}
