//! Promise: the reference types cost what they may, and nothing is done twice for want of room.

use crate::outsider::Outsider;
use crate::processes::Process;
use crate::waits::{announced, drained, until};
use image::{ImageFormat, Rgba, RgbaImage};
use jetlane::Outcome;
use jetlane_bus::flows::LANE_ACK_WAIT;
use jetlane_bus::topology::Settings as Streams;
use jetlane_executor::Settings;
use jetlane_schemas::subject::STREAM_DONE;
use jetlane_testkit::{Kit, server};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until, timeout};

/// A server that answers each request with so many bytes, and counts them by their paths.
async fn counting(bytes: usize) -> (String, Arc<Mutex<BTreeMap<String, usize>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let counts = Arc::<Mutex<BTreeMap<String, usize>>>::default();
    let counted = Arc::clone(&counts);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let (mut stream, mut first) = (BufReader::new(stream), String::new());
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    if line.trim_end().is_empty() {
                        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                        *counted.lock().expect("nobody panics with it").entry(path).or_default() += 1;
                        let body = "x".repeat(bytes);
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n{body}");
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                        first.clear();
                    } else if first.is_empty() {
                        first.clone_from(&line);
                    }
                    line.clear();
                }
            });
        }
    });
    (url, counts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_request_is_not_made_again_while_its_answer_waits_for_room_among_completions() {
    const TASKS: usize = 60;
    let streams = Streams { done_bytes_max: 64 * 1_024, ..Streams::default() };
    let config = jetlane_dispatcher::Config { streams, ..jetlane_dispatcher::Config::default() };
    let kit = Kit::with(server().await, config).await;
    let settings = Settings { allow_private_addresses: true, adaptive: false, ..Settings::default() };
    kit.serve(jetlane_executor::executor(kit.client(), &settings).expect("HTTP can be spoken"));
    announced(&kit, "http.request").await;
    let (url, counts) = counting(4_096).await;
    let submit = |number: usize| {
        let body = serde_json::json!({ "url": format!("{url}/{number}") });
        kit.client().submit_json("http.request", body.to_string().into_bytes())
    };
    let handles = kit.client().submit_all((0..TASKS).map(submit).collect::<Vec<_>>()).await;
    let bus = kit.client().bus();
    let stored = async || bus.subject_counts(STREAM_DONE, ">").await.expect("counted").len();
    let made = || counts.lock().expect("nobody panics with it").clone();
    until("each slot holds an answer that finds no room", async || made().len() == stored().await + settings.slots)
        .await;
    // Longer than a lease, after which a task that nobody holds comes again; the time is what is tested.
    sleep_until(Instant::now() + LANE_ACK_WAIT + Duration::from_secs(1)).await;
    assert!(made().values().all(|requests| *requests == 1), "{:?}", made());
    assert_eq!(made().len(), stored().await + settings.slots, "nothing new begins");
    let done = Outsider::connect(&kit.url()).await.jetstream.get_stream(STREAM_DONE).await.expect("there");
    until("all have ended", async || {
        // The submitters know what was stored; there is room for the rest.
        done.purge().await.expect("purged");
        made().len() == TASKS
    })
    .await;
    drained(bus, &[]).await;
    assert!(made().values().all(|requests| *requests == 1), "{:?}", made());
    drop(handles);
}

/// Makes thumbnails of 16 pictures of this side at once; returns how much memory the executor had at most, before
/// and after.
async fn sixteen_at_once(side: u32, variables: &[(&str, &str)], limit: Duration) -> (u64, u64) {
    const PICTURES: usize = 16;
    let folder = tempfile::tempdir().expect("a folder");
    {
        let picture = RgbaImage::from_pixel(side, side, Rgba([200, 10, 10, 128]));
        picture.save_with_format(folder.path().join("0.png"), ImageFormat::Png).expect("written");
    }
    for number in 1..PICTURES {
        std::fs::hard_link(folder.path().join("0.png"), folder.path().join(format!("{number}.png"))).expect("linked");
    }
    let kit = Kit::start().await;
    let root = folder.path().display().to_string();
    let own = [("JETLANE_EXECUTOR_PICTURES_ROOT", root.as_str()), ("JETLANE_EXECUTOR_ADAPTIVE", "false")];
    let process = Process::service("executor", &kit.url(), &[&own, variables].concat());
    announced(&kit, "image.thumbnail").await;
    let before = process.peak_memory();
    let submit = |number: usize| {
        let body = serde_json::json!({ "path": format!("{number}.png"), "width": 100 });
        let submit = kit.client().submit_json("image.thumbnail", body.to_string().into_bytes());
        submit.timeout(limit)
    };
    for handle in kit.client().submit_all((0..PICTURES).map(submit).collect::<Vec<_>>()).await {
        let mut handle = handle.expect("accepted");
        let done = timeout(limit, handle.completion()).await.expect("in time").expect("completes");
        assert_eq!((done.outcome, done.attempt), (Outcome::Succeeded, 1), "{:?}", done.failure());
    }
    (before, process.peak_memory())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_that_are_made_at_once_take_no_more_memory_than_they_may() {
    const MAY_MIB: u64 = 64;
    if std::env::var_os("JETLANE_TEST_LARGE_PICTURES").is_some() {
        // 576 MB a picture. Takes minutes.
        let variables = [("JETLANE_EXECUTOR_MEMORY_MIB", "2048")];
        let (_, peak) = sixteen_at_once(12_000, &variables, Duration::from_secs(1_800)).await;
        eprintln!("16 pictures of 12,000 x 12,000 took {} MiB", peak >> 20);
        assert!(peak <= 2_048 << 20, "{} MiB", peak >> 20);
        return;
    }
    // 16 MB a picture: all at once would take 256 MB.
    let variables = [("JETLANE_EXECUTOR_PICTURES_MEMORY_MIB", "64")];
    let (before, after) = sixteen_at_once(2_000, &variables, Duration::from_secs(120)).await;
    // The allocator keeps some of what was freed for a while.
    let (grown, most) = ((after - before) >> 20, MAY_MIB + 96);
    assert!(grown <= most, "{grown} MiB with {MAY_MIB} MiB for pictures");
}
