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

fn context(traceparent: &str, tracestate: &str) -> TraceContext {
    let headers = [(header::TRACEPARENT, traceparent), (header::TRACESTATE, tracestate)];
    TraceContext::from_headers(&headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
}

const PARENT: &str = "-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-";

#[test]
fn traceparent_of_a_later_version_is_read_as_far_as_it_is_known() {
    for (later, read) in [("01", "01"), ("cc", "01-what-else"), ("01", "ff")] {
        let context = context(&format!("{later}{PARENT}{read}"), "a=1");
        let flags = if read == "ff" { "03" } else { "01" };
        assert_eq!(context.traceparent, format!("00{PARENT}{flags}"));
        assert_eq!(context.tracestate, "a=1");
    }
    for bad in ["ff-0af", "00", "01"].map(|version| format!("{version}{PARENT}01.more")) {
        assert!(context(&bad, "a=1").is_empty(), "{bad}");
    }
    assert!(context(&format!("00{PARENT}01-more"), "").is_empty(), "version 00 has four parts");
    assert!(context(&format!("0\u{e9}{PARENT}01"), "").is_empty());
}

#[test]
fn baggage_is_one_header_of_whole_members_within_its_bounds() {
    let task_type = TaskType::new("a.b").expect("valid");
    let carried = |values: &[&str]| {
        let queue = QueueName::default_queue();
        let mut task = TaskEvent::new(TaskId::generate(), task_type.clone(), queue, Micros(0), Vec::new());
        values.iter().for_each(|value| task.push_header("Baggage".into(), (*value).to_owned()));
        task.headers.into_iter().map(|(_, value)| value).collect::<Vec<_>>()
    };
    assert_eq!(carried(&["a=1;p=2 , b=%2C,,", "c=3"]), ["a=1;p=2,b=%2C,c=3"]);
    let many: Vec<String> = (0..99).map(|number| format!("k{number}=v")).collect();
    assert_eq!(carried(&[&many.join(",")]), [many[..64].join(",")]);
    let exact = [format!("a={}", "x".repeat(4_093)), format!("b={}", "y".repeat(4_094))];
    assert_eq!(carried(&[&exact[0], &exact[1], "c=3"]), [exact.join(",")]);
    assert_eq!(exact.join(",").len(), 8_192);
    assert_eq!(carried(&[&"z".repeat(8_193)]), [""]);
}

#[test]
fn tracestate_that_is_too_long_loses_whole_entries_from_its_end() {
    let entries: Vec<String> = (0..20).map(|n| format!("vendor{n:02}={}", "x".repeat(40))).collect();
    let kept = context(&format!("00{PARENT}01"), &entries.join(",")).tracestate;
    assert_eq!(kept, entries[..10].join(","));
    let exact = format!("a={}", "x".repeat(510));
    assert_eq!(context(&format!("00{PARENT}01"), &exact).tracestate, exact);
    let long = format!("a={},b=1", "x".repeat(510));
    assert_eq!(context(&format!("00{PARENT}01"), &long).tracestate, "b=1", "the very long go first");
    let many: Vec<String> = (0..40).map(|n| format!("k{n}=1")).collect();
    assert_eq!(context(&format!("00{PARENT}01"), &many.join(",")).tracestate, many[..32].join(","));
}
