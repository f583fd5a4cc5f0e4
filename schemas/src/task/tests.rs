//! What holds of tasks and their options.

use super::*;

fn task() -> TaskEvent {
    TaskEvent::new(
        TaskId::generate(),
        TaskType::new("a.b").expect("valid"),
        QueueName::default_queue(),
        Micros(1),
        b"{}".to_vec(),
    )
}

#[test]
fn a_body_of_exactly_the_limit_passes_and_one_byte_more_is_refused() {
    let mut task = task();
    task.payload = vec![b' '; 100];
    assert_eq!(task.check(100), Ok(()));
    task.payload.push(b' ');
    assert!(task.check(100).is_err());
}

#[test]
fn callbacks_cannot_publish_into_the_pipeline_or_the_servers_api() {
    for bad in ["jetlane.done.a.b", "$JS.API.INFO", "_INBOX.x", "a.*", "a.>", "a..b", "", "a b"] {
        let callback = Callback::Subject { subject: bad.into() };
        assert!(check_callbacks(&[callback]).is_err(), "{bad:?} passed");
    }
    assert!(check_callbacks(&[Callback::Subject { subject: "billing.done".into() }]).is_ok());
}

#[test]
fn callbacks_nested_in_follow_ups_count() {
    let mut callback = Callback::Subject { subject: "a".into() };
    for _ in 0..CALLBACKS_MAX {
        callback =
            Callback::Task { task_type: TaskType::new("a").expect("valid"), priority: None, callbacks: vec![callback] };
    }
    assert!(check_callbacks(&[callback]).is_err());
}

#[test]
fn a_malformed_traceparent_counts_as_none() {
    for bad in [
        "",
        "00-0-0-0",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
    ] {
        let headers = vec![("Traceparent".to_owned(), bad.to_owned())].into();
        assert!(TraceContext::from_headers(&headers).is_empty(), "{bad:?} was taken");
    }
    let headers =
        vec![("TraceParent".to_owned(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned())].into();
    assert_eq!(TraceContext::from_headers(&headers).trace_id(), Some("0af7651916cd43dd8448eb211c80319c"));
}
