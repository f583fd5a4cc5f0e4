//! Promise: with `sync_interval: always` a power cut of all servers loses no acknowledged task. The server's default
//! loses some, which proves the method.

use crate::fixture::{PROGRAM, turn};
use jetlane_bus::local::SyncInterval;
use jetlane_faults::power::{Outcome, cut, unavailable};
use std::path::Path;

/// Cuts the power; `None` where that cannot be done here.
async fn outcome(servers: usize, sync: SyncInterval) -> Option<Outcome> {
    let _turn = turn().await;
    let folder = tempfile::tempdir().expect("a folder");
    if let Some(why) = unavailable(folder.path()).await {
        eprintln!("skipped: {why}");
        return None;
    }
    let outcome = cut(Path::new(PROGRAM), folder.path(), servers, sync).await.expect("the power is cut");
    eprintln!("{servers} servers, {sync:?}: {outcome:?}");
    Some(outcome)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cut_of_one_synced_server_loses_no_acknowledged_task() {
    assert_eq!(outcome(1, SyncInterval::Always).await.map_or(0, |outcome| outcome.lost), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cut_of_three_synced_servers_loses_no_acknowledged_task() {
    assert_eq!(outcome(3, SyncInterval::Always).await.map_or(0, |outcome| outcome.lost), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cut_of_three_servers_with_default_settings_loses_acknowledged_tasks() {
    assert!(outcome(3, SyncInterval::ServerDefault).await.is_none_or(|outcome| outcome.lost > 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cut_of_a_server_with_default_settings_loses_acknowledged_tasks() {
    assert!(outcome(1, SyncInterval::ServerDefault).await.is_none_or(|outcome| outcome.lost > 0));
}
