//! `jetlane queues` and what `jetlane types` tells of run times.

use crate::place::{Place, said, task_type};
use futures::future::join_all;
use jetlane_schemas::registry::{EstimateEntry, RunTimes};
use jetlane_schemas::subject::{self, BUCKET_REGISTRY};
use serde_json::json;

#[tokio::test]
async fn a_queue_is_set_shown_and_listed_and_what_is_not_said_stays() {
    let place = Place::new().await;
    let words = ["queues", "set", "q", "--policy", "sjf", "--fit", "large=cpu:4,memory:8192,label:zone-a"];
    let (exit, told) = place.json(&words).await;
    assert_eq!((exit, &told["created"]), (0, &true.into()), "{told}");
    let changed = json!([
        { "setting": "policy", "from": "adaptive", "to": "sjf" },
        { "setting": "fit large", "from": "undeclared", "to": "cpu:4,memory:8192,label:zone-a" },
    ]);
    assert_eq!(told["changed"], changed);
    let (_, told) = place.json(&["queues", "set", "q", "--weights", "8:4:2:1", "--max-wait", "30s", "--pause"]).await;
    assert_eq!((&told["created"], &told["entry"]["policy"]), (&false.into(), &"sjf".into()), "{told}");
    let (_, again) = place.json(&["queues", "set", "q", "--pause"]).await;
    assert_eq!(again["changed"], json!([]));
    place.announce("a.b", "other").await;
    assert_eq!(place.run(&["submit", "a.b", "--queue", "q"]).await.status.code(), Some(0));
    let (_, shown) = place.json(&["queues", "show", "q"]).await;
    assert_eq!((&shown["weights"], &shown["max_wait_ms"]), (&json!([8, 4, 2, 1]), &30_000.into()), "{shown}");
    assert_eq!((&shown["paused"], &shown["waiting"], &shown["leader"]), (&true.into(), &1.into(), &json!(null)));
    assert_eq!(shown["fits"][1]["covers"]["memory_mib"], 8192);
    let (_, listed) = place.json(&["queues", "ls"]).await;
    let queues = listed["queues"].as_array().expect("queues");
    assert_eq!((&queues[0]["queue"], &queues[0]["types"]), (&"other".into(), &json!(["a.b"])), "{listed}");
    let table = place.run(&["queues", "ls"]).await;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("any large") && table.contains("sjf") && table.contains("nobody"), "{table}");
    let back = place.run(&["queues", "set", "q", "--drop-fit", "large", "--max-wait", "none", "--resume"]).await;
    assert_eq!(back.status.code(), Some(0), "{}", said(&back));
    let told = String::from_utf8_lossy(&back.stdout).into_owned();
    assert!(told.contains("paused: yes -> no") && told.contains("fit large: "), "{told}");
}

#[tokio::test]
async fn those_who_change_a_queue_at_once_undo_nothing_of_each_other() {
    let place = Place::new().await;
    let fits: Vec<String> = (0..8).map(|number| format!("fit-{number}=cpu:1")).collect();
    let words = |fit| ["-o", "json", "queues", "set", "q", "--fit", fit];
    let all = join_all(fits.iter().map(|fit| {
        let words = words(fit.as_str());
        let place = &place;
        async move { place.run(&words).await }
    }));
    for output in all.await {
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    }
    let (_, shown) = place.json(&["queues", "show", "q"]).await;
    assert_eq!(shown["fits"].as_array().map(Vec::len), Some(9), "{shown}");
}

#[tokio::test]
async fn what_a_queue_cannot_be_is_refused_and_nothing_is_written() {
    let place = Place::new().await;
    for words in [
        &["queues", "set", "q", "--fit", "any=cpu:1"][..],
        &["queues", "set", "q", "--drop-fit", "any"],
        &["queues", "set", "q", "--drop-fit", "none"],
    ] {
        let output = place.run(words).await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{words:?}: {}", said(&output));
    }
    assert_eq!(place.run(&["queues", "show", "q"]).await.status.code(), Some(3));
}

#[tokio::test]
async fn run_times_of_a_type_are_shown_as_they_were_learned() {
    let place = Place::new().await;
    place.announce("a.b", "q").await;
    let times = |ms: f64, runs| RunTimes { runs, mu: (ms * 1_000.0).ln(), variance: 0.0 };
    let sizes = [("large".to_owned(), times(4_000.0, 3))].into();
    let estimate = EstimateEntry {
        all: times(250.0, 1_200),
        sizes,
        updated_at: jetlane_bus::clock::now(),
        ..EstimateEntry::default()
    };
    let registry = place.bus.bucket(BUCKET_REGISTRY).await.expect("there");
    registry.put(&subject::registry_estimate(&task_type("a.b")), &estimate).await.expect("put");
    let (_, shown) = place.json(&["types", "show", "a.b"]).await;
    assert_eq!((&shown["run_times"]["runs"], &shown["entry"]["queue"]), (&1_200.into(), &"q".into()), "{shown}");
    let near = |value: &serde_json::Value, ms: f64| value.as_f64().is_some_and(|found| (found - ms).abs() < 0.001);
    assert!(
        near(&shown["run_times"]["mean_ms"], 250.0) && near(&shown["sizes"]["large"]["p90_ms"], 4_000.0),
        "{shown}"
    );
    let page = place.run(&["types", "show", "a.b"]).await;
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("1,200") && page.contains("large") && page.contains("250 ms"), "{page}");
    let (_, listed) = place.json(&["types", "ls"]).await;
    assert!(near(&listed["types"][0]["mean_ms"], 250.0), "{listed}");
    assert_eq!(place.run(&["types", "show", "no.one"]).await.status.code(), Some(3));
}
