//! What holds of completions as they are written and read.

use super::*;
use crate::subject;

fn completion() -> Completion {
    let mut task = TaskEvent::new(
        TaskId::generate(),
        TaskType::new("image.thumbnail").expect("valid"),
        QueueName::new("pictures").expect("valid"),
        Micros(1_000_000),
        Vec::new(),
    );
    task.tenant = Tenant::new("Zoë \"& co\" 100%").expect("valid");
    task.callbacks = vec![Callback::Webhook { endpoint: "gallery".into() }];
    let mut completion = Completion::of(&task, Outcome::Failed, Micros(1_003_500));
    (completion.attempt, completion.run, completion.token) = (2, 3, Some(RunToken::from_bits(42)));
    (completion.wait_ms, completion.run_ms) = (1.25, 2.25);
    completion.with_failure(Failure::new("timeout", "took too long"))
}

#[test]
fn what_is_written_to_headers_and_body_is_read_back() {
    let completion = completion();
    let subject = subject::done(&completion.task_type, &completion.id);
    let headers = completion.headers("2026-11-22T00:00:00Z");
    let read = Completion::from_message(&subject, &headers, &completion.body).expect("readable");
    assert_eq!(read, completion);
}

#[test]
fn the_first_run_is_not_written_and_read_all_the_same() {
    let mut completion = completion();
    let subject = subject::done(&completion.task_type, &completion.id);
    for (attempt, run) in [(1, 1), (0, 0), (2, 1), (1, 5)] {
        (completion.attempt, completion.run) = (attempt, run);
        let headers = completion.headers("");
        let read = Completion::from_message(&subject, &headers, &completion.body).expect("readable");
        assert_eq!(read, completion);
        assert_eq!(headers.get(header::RUN).is_some(), run != 1);
    }
}

#[test]
fn times_in_headers_of_their_own_are_still_read() {
    let headers = [
        (header::OUTCOME, "succeeded"),
        (header::ATTEMPT, "2"),
        (header::SUBMITTED_US, "1000"),
        (header::WAIT_MS, "1.5"),
        (header::RUN_MS, "2.5"),
    ];
    let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let read = Completion::from_message("jetlane.done.a.s1", &headers, b"").expect("readable");
    assert_eq!((read.attempt, read.run, read.wait_ms, read.run_ms), (2, 0, 1.5, 2.5));
    assert_eq!(read.finished_at, Micros(5_000));
}

#[test]
fn a_plain_client_completes_with_one_header() {
    let headers = vec![("Ce-JetlaneOutcome".to_owned(), "failed".to_owned())].into();
    let read = Completion::from_message("jetlane.done.a.b.s12", &headers, b"disk full").expect("readable");
    assert_eq!(read.failure().map(|f| f.message), Some("disk full".into()));
}

#[test]
fn numbers_beyond_all_bounds_in_headers_are_no_panic() {
    let headers =
        [(header::SUBMITTED_US, "18446744073709551615"), (header::WAIT_MS, "1e308"), (header::OUTCOME, "failed")]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
    let read = Completion::from_message("jetlane.done.a.s1", &headers, b"").expect("readable");
    assert_eq!(read.finished_at, Micros(u64::MAX));
}

#[test]
fn a_long_error_is_cut_visibly_and_within_its_bound() {
    let mut failure = Failure::new("handler", "é".repeat(ERROR_BYTES_MAX));
    failure.chain = vec!["cause".into()];
    assert!(failure.cut());
    assert!(failure.message.ends_with("(cut)") && failure.message.len() <= ERROR_BYTES_MAX);
    assert!(failure.chain.is_empty());
}
