//! Promise: headers that are wrong are refused by the name of the option, harmless ones are passed
//! over, and hostile ones harm nobody.

use crate::outsider::{Outsider, header, json};
use crate::tasks::{Echo, echo};
use crate::waits::{announced, drained, until};
use jetlane::{Executor, Task};
use jetlane_testkit::{Kit, soon};

const DOOR: &str = "jetlane.submit.test.echo";

async fn serving() -> (Kit, Outsider) {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "tests").task(echo));
    announced(&kit, Echo::TYPE).await;
    let outsider = Outsider::connect(&kit.url()).await;
    (kit, outsider)
}

/// A task that was submitted before and after is served as ever.
async fn others_are_served(kit: &Kit) {
    let handle = kit.client().submit(Echo { text: "other".into() }).await.expect("accepted");
    assert_eq!(soon(handle.into_future()).await.expect("succeeds"), "other");
}

async fn is_rejected(outsider: &Outsider, headers: &[(&str, &str)], option: &str) {
    let (sequence, _) = outsider.publish(DOOR, headers, r#"{"text":"x"}"#).await;
    let id = format!("s{sequence}");
    let done = outsider.completion(Echo::TYPE, &id).await;
    let shown: String = format!("{headers:?}").chars().take(200).collect();
    assert_eq!(header(&done, "ce-jetlaneoutcome"), "rejected", "{shown}");
    let failure = json(&done);
    assert_eq!(failure["code"], "option", "{shown}: {failure}");
    let message = failure["message"].as_str().expect("text");
    assert!(message.starts_with(option), "{shown}: {message}");
    outsider.dead_letter("tests", Echo::TYPE, &id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_option_out_of_range_is_rejected_by_its_name_and_kept() {
    let (kit, outsider) = serving().await;
    let long = "x".repeat(257);
    for (name, value, option) in [
        ("ce-jetlanepriority", "urgent", "priority"),
        ("ce-jetlanepriority", "", "priority"),
        ("ce-jetlanedelayms", "-1", "delay"),
        ("ce-jetlanedelayms", "soon", "delay"),
        ("ce-jetlanedelayms", "99999999999999999999999", "delay"),
        ("ce-jetlanedelayms", "31536000001", "delay"),
        ("ce-jetlaneretries", "101", "retries"),
        ("ce-jetlaneretries", "4294967296", "retries"),
        ("ce-jetlanetimeoutms", "0", "timeout"),
        ("ce-jetlanetimeoutms", "86400001", "timeout"),
        ("ce-jetlanedeadline", "tomorrow", "deadline"),
        ("ce-jetlanetenant", long.as_str(), "tenant"),
        ("ce-jetlanetenant", "a%01b", "tenant"),
        ("ce-jetlanekey", long.as_str(), "key"),
        ("ce-jetlanekey", "a%0d%0ab", "key"),
        ("ce-jetlaneparent", "a.b", "parent"),
        ("ce-jetlaneparent", "%2A", "parent"),
        ("ce-datacontenttype", "text/plain", "datacontenttype"),
        ("ce-jetlanecallbacks", "{}", "callbacks"),
        ("ce-jetlanecallbacks", "[", "callbacks"),
        ("ce-jetlanecallbacks", r#"[{"kind":"subject","subject":"jetlane.submit.test.echo"}]"#, "callbacks"),
        ("ce-jetlanecallbacks", r#"[{"kind":"subject","subject":"$JS.API.STREAM.DELETE.JETLANE_TASKS"}]"#, "callbacks"),
        ("ce-jetlanecallbacks", r#"[{"kind":"subject","subject":"a.>"}]"#, "callbacks"),
        ("ce-jetlanecallbacks", r#"[{"kind":"task","task_type":"a.*"}]"#, "callbacks"),
    ] {
        is_rejected(&outsider, &[(name, value)], option).await;
    }
    others_are_served(&kit).await;
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_tasks_bad_callbacks_are_not_carried_on() {
    let (kit, outsider) = serving().await;
    let bad = r#"[{"kind":"subject","subject":"jetlane.submit.test.echo"}]"#;
    let (sequence, _) = outsider.publish(DOOR, &[("ce-jetlanecallbacks", bad)], r#"{"text":"x"}"#).await;
    let done = outsider.completion(Echo::TYPE, &format!("s{sequence}")).await;
    assert_eq!(header(&done, "ce-jetlaneoutcome"), "rejected");
    assert_eq!(header(&done, "ce-jetlanecallbacks"), "");
    others_are_served(&kit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_for_the_handler_are_bounded_and_hold_no_control_characters() {
    let (kit, outsider) = serving().await;
    let large = "h".repeat(17 * 1024);
    is_rejected(&outsider, &[("x-large", &large)], "headers").await;
    is_rejected(&outsider, &[("x-control", "a\u{1}b")], "headers").await;
    is_rejected(&outsider, &[("x-control", "a\u{7f}b")], "headers").await;
    let names: Vec<String> = (0..33).map(|number| format!("x-{number}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    is_rejected(&outsider, &many, "headers").await;
    others_are_served(&kit).await;
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_harmless_is_passed_over() {
    let (kit, outsider) = serving().await;
    let long = "a".repeat(50_000);
    for headers in [
        &[("traceparent", "junk")][..],
        &[("traceparent", "00-00000000000000000000000000000000-0000000000000000-00")],
        &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", long.as_str())],
        &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "a=\u{1}")],
        &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "ü=\u{202e}")],
        &[("ce-jetlanetenant", "%zz%4")],
        &[("ce-jetlanetenant", "%ff%fe")],
        &[("ce-unknown", "1"), ("ce-jetlanefuture", "yes")],
        &[("ce-unknown", long.as_str())],
        &[("ce-specversion", "0.3"), ("ce-type", "")],
        &[("ce-time", "yesterday"), ("ce-source", "not a uri %")],
        &[("content-type", "text/plain")],
        &[("Ce-JetlanePriority", "high"), ("CE-JETLANERETRIES", " 2 ")],
        &[("X-User", "ada"), ("x-user", "eve"), ("X-USER", "")],
    ] {
        let (sequence, _) = outsider.publish(DOOR, headers, r#"{"text":"x"}"#).await;
        let done = outsider.completion(Echo::TYPE, &format!("s{sequence}")).await;
        let shown: String = format!("{headers:?}").chars().take(200).collect();
        assert_eq!((header(&done, "ce-jetlaneoutcome"), json(&done).as_str()), ("succeeded", Some("x")), "{shown}");
    }
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_fill_a_message_to_its_limit_are_refused_and_do_not_come_again_for_ever() {
    let (kit, outsider) = serving().await;
    let (limit, max_payload) = (kit.client().bus().body_bytes_max(), kit.client().bus().server().max_payload);
    let text = |bytes: usize| format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes - 11));
    let (largest, larger) = (text(limit), text(max_payload - 32 * 1024));
    let (half, full) = ("f".repeat(31 * 1024), "f".repeat(60 * 1024));
    // Each `%` would take three bytes if it were escaped once more.
    let swelling = "%".repeat(60 * 1024);
    let webhook = format!(r#"[{{"kind":"webhook","endpoint":"{swelling}"}}]"#);
    let cases = [
        (vec![("x-fill", full.as_str())], largest.as_str()),
        (vec![("x-fill", half.as_str())], larger.as_str()),
        (vec![("ce-jetlanekey", full.as_str())], largest.as_str()),
        (vec![("ce-jetlanekey", half.as_str())], larger.as_str()),
        (vec![("ce-jetlanecallbacks", webhook.as_str())], r#"{"text":"x"}"#),
        (vec![("ce-jetlanetenant", swelling.as_str())], r#"{"text":"x"}"#),
        (vec![("ce-id", swelling.as_str()), ("ce-jetlanepriority", "urgent")], r#"{"text":"x"}"#),
    ];
    for (headers, body) in &cases {
        let (sequence, _) = outsider.publish(DOOR, headers, (*body).to_owned()).await;
        let gone = async || kit.client().bus().read_sequence("JETLANE_TASKS", sequence).await.expect("reads").is_none();
        until("it is dealt with", gone).await;
        others_are_served(&kit).await;
    }
    let dead = kit.client().bus().subject_counts("JETLANE_DEAD", "jetlane.dead.>").await.expect("counts");
    assert_eq!(dead.len(), cases.len(), "each has its dead letter: {dead:?}");
    drained(kit.client().bus(), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_structured_event_that_is_none_is_rejected() {
    let (kit, outsider) = serving().await;
    let structured = [("Content-Type", "application/cloudevents+json; charset=utf-8")];
    for body in [
        "",
        "nope",
        "[]",
        r#"{"specversion":"1.0"}"#,
        r#"{"id":""}"#,
        r#"{"id":"1","source":"/s","subject":{"a":1},"data":{"text":"x"}}"#,
        r#"{"id":"1","source":"/s","data_base64":"e30="}"#,
    ] {
        let (sequence, _) = outsider.publish(DOOR, &structured, body).await;
        let sent = async || kit.client().bus().read_sequence("JETLANE_TASKS", sequence).await.expect("reads").is_none();
        until("it is dealt with", sent).await;
    }
    let dead = kit.client().bus().subject_counts("JETLANE_DEAD", "jetlane.dead.>").await.expect("counts");
    // The last two are one event, sent twice.
    assert_eq!(dead.len(), 6, "{dead:?}");
    others_are_served(&kit).await;
    drained(kit.client().bus(), &[]).await;
}

/// Whatever anybody makes the server store: it comes to an end, with this outcome, and others are served.
async fn comes_to_an_end(blocks: &[(&str, &[u8])], outcome: &str) {
    let (kit, outsider) = serving().await;
    let bus = kit.client().bus();
    for (what, block) in blocks {
        eprintln!("{what}");
        let last = async || {
            let stream = outsider.jetstream.get_stream("JETLANE_TASKS").await.expect("the stream is there");
            stream.cached_info().state.last_sequence
        };
        let before = last().await;
        outsider.publish_bytes(DOOR, block, br#"{"text":"x"}"#).await;
        until("it is stored", async || last().await > before).await;
        let id = format!("s{}", last().await);
        others_are_served(&kit).await;
        let done = outsider.completion(Echo::TYPE, &id).await;
        assert_eq!(header(&done, "ce-jetlaneoutcome"), outcome, "{what}");
        if outcome == "rejected" {
            outsider.dead_letter("tests", Echo::TYPE, &id).await;
        }
        let (bare, _) = outsider.publish(DOOR, &[], r#"{"text":"the door is open"}"#).await;
        outsider.completion(Echo::TYPE, &format!("s{bare}")).await;
    }
    drained(bus, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_poses_as_the_servers_own_words_is_a_task_like_any_other() {
    comes_to_an_end(
        &[
            ("the end of a consumer", b"NATS/1.0 409 Consumer Deleted\r\n\r\n"),
            ("nobody there", b"NATS/1.0 503 No Responders\r\n\r\n"),
            ("the end of a pull", b"NATS/1.0 404 No Messages\r\n\r\n"),
            ("a sign of life", b"NATS/1.0 100 Idle Heartbeat\r\n\r\n"),
            ("a status that is none", b"NATS/1.0 12 hello\r\n\r\n"),
        ],
        "succeeded",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_no_library_writes_harm_nobody_and_do_not_come_again_for_ever() {
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    comes_to_an_end(
        &[
            (
                "a carriage return in a trace",
                format!("NATS/1.0\r\n{trace}\r\ntracestate: a=b\rc: d\r\n\r\n").as_bytes(),
            ),
            ("a name with a blank", b"NATS/1.0\r\nx bad: 1\r\n\r\n"),
            ("a line without a colon", b"NATS/1.0\r\nnonsense\r\n\r\n"),
            ("bytes that are no text", b"NATS/1.0\r\nx-user: \xff\xfe\r\n\r\n"),
            ("no version", b"HTTP/1.1\r\nx: y\r\n\r\n"),
        ],
        "rejected",
    )
    .await;
}
