//! Where tenants stand in line: shards of their own, and shared ones that nobody can flood for long.

use crate::stage::{Stage, Taker, soon, task};
use jetlane_dispatcher::Config;
use jetlane_schemas::subject::{self, BUCKET_REGISTRY, STREAM_TASKS};
use jetlane_schemas::{Flow, Priority, QueueName, Shard, ShardEntry, TaskEvent, TaskId, Tenant};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn pictures() -> QueueName {
    QueueName::new("pictures").unwrap()
}

fn tenant(name: &str) -> Tenant {
    Tenant::new(name).unwrap()
}

fn of(tenant: &Tenant, shard: Shard) -> TaskEvent {
    let mut task = task("pictures", "a.b", Priority::Normal);
    (task.tenant, task.shard) = (tenant.clone(), shard);
    task
}

/// A dispatcher on a queue whose 48 shards belong to these tenants.
async fn stage(policy: &str, owners: &[Tenant]) -> Stage {
    let mut stage = Stage::without_dispatcher(&Config::default()).await;
    stage.announce("a.b", r#"{"queue":"pictures"}"#).await;
    stage.declare("pictures", &format!(r#"{{"policy":"{policy}"}}"#)).await;
    let registry = stage.bus.bucket(BUCKET_REGISTRY).await.unwrap();
    for (owner, number) in owners.iter().zip(Shard::ASSIGNED) {
        let entry = ShardEntry { tenant: owner.clone(), shard: Shard::new(number).unwrap() };
        registry.put(&subject::registry_shard(&pictures(), owner), &entry).await.unwrap();
    }
    stage.start(Config::default()).await;
    stage
}

/// Submits a task; how many others come before it once the dispatcher has read it.
async fn waited(stage: &Stage, taker: &mut Taker, probe: TaskEvent) -> usize {
    stage.submit(&probe).await;
    stage.until_read("pictures", &probe.id).await;
    let mut others = 0;
    while taker.take(1, 1).await[0].id != probe.id {
        others += 1;
    }
    others
}

/// A tenant that shares a shard by its hash.
fn beside(shard: Shard) -> Tenant {
    (0..).map(|n| tenant(&format!("other {n}"))).find(|other| Shard::shared_by_hash(other) == shard).unwrap()
}

/// Dumps a tenant's tasks into a shard; when they were stored.
async fn flood(stage: &Stage, tenant: &Tenant, shard: Shard) -> Instant {
    let tasks: Vec<TaskEvent> = (0..5_000).map(|_| of(tenant, shard)).collect();
    stage.submit_all(&tasks).await;
    Instant::now()
}

/// Waits until a tenant stands elsewhere, and tells where.
async fn moved(stage: &Stage, tenant: &Tenant, from: Shard) -> Shard {
    soon(async {
        loop {
            let place = stage.shard_of("pictures", tenant).await;
            if place != from {
                return place;
            }
        }
    })
    .await
}

/// So many tenants of random names.
fn crowd(count: usize) -> Vec<Tenant> {
    (0..count).map(|_| tenant(TaskId::generate().as_str())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_dumps_many_tasks_into_a_shared_shard_leaves_what_others_submit_later_where_it_was() {
    let owners: Vec<Tenant> = (0..48).map(|n| tenant(&format!("owner {n}"))).collect();
    let mut stage = stage("rr", &owners).await;
    let flooder = tenant("flooder");
    let shard = Shard::shared_by_hash(&flooder);
    let other = beside(shard);
    assert_eq!(stage.shard_of("pictures", &other).await, shard);
    let dumped = flood(&stage, &flooder, shard).await;
    let instead = moved(&stage, &other, shard).await;
    let relieved = dumped.elapsed();
    assert!(Shard::FREE.contains(&instead.number()), "{instead}");
    assert_eq!(stage.shard_of("pictures", &flooder).await, shard, "who floods it keeps it");
    for owner in &owners {
        assert!(Shard::ASSIGNED.contains(&stage.shard_of("pictures", owner).await.number()));
    }
    // What is submitted from now on goes in turns with the flood, not behind it.
    let mut taker = stage.taker("pictures").await;
    for _ in 0..3 {
        let waited = waited(&stage, &mut taker, of(&other, instead)).await;
        assert!(waited <= 3, "{waited} tasks came before it");
    }
    assert!(relieved < Duration::from_secs(1), "told after {relieved:?}");
    // The next leader knows it all.
    stage.drain().await;
    stage.start(Config::default()).await;
    assert_eq!(stage.shard_of("pictures", &other).await, instead);
    assert!(waited(&stage, &mut taker, of(&other, instead)).await <= 3);
    let next = (0..).map(|n| tenant(&format!("next {n}"))).find(|t| Shard::shared_by_hash(t) != shard).unwrap();
    let its = Shard::shared_by_hash(&next);
    flood(&stage, &next, its).await;
    moved(&stage, &beside(its), its).await;
    for (tenant, place) in [(&other, instead), (&flooder, shard), (&next, its)] {
        assert_eq!(stage.shard_of("pictures", tenant).await, place, "the second relief undid the first");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_assigned_tenants_wait_depends_on_which_others_exist_among_a_thousand() {
    let mut waits = Vec::new();
    // The same tenants with others beside them, twice.
    let owners = crowd(48);
    for _ in 0..2 {
        let stage = stage("sjf", &owners).await;
        let others = crowd(952);
        // The others stand wherever their names put them, one of them with a flood.
        let mut tasks: Vec<TaskEvent> = others.iter().map(|other| of(other, Shard::shared_by_hash(other))).collect();
        tasks.extend((0..3_000).map(|_| of(&others[0], Shard::shared_by_hash(&others[0]))));
        tasks.iter_mut().for_each(|task| task.estimate_us = Some(60_000_000));
        tasks.sort_by_key(|task| task.shard);
        for of_shard in tasks.chunk_by(|a, b| a.shard == b.shard) {
            stage.submit_all(of_shard).await;
        }
        let mut taker = stage.taker("pictures").await;
        taker.take(5, 1).await;
        for owner in owners.iter().step_by(12) {
            let mut probe = of(owner, stage.shard_of("pictures", owner).await);
            assert!(Shard::ASSIGNED.contains(&probe.shard.number()), "{}", probe.shard);
            probe.estimate_us = Some(1_000);
            waits.push(waited(&stage, &mut taker, probe).await);
        }
    }
    // What was in its lane already comes first, and nothing else: the shortest goes next.
    assert!(waits.iter().all(|wait| *wait <= 2), "{waits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_costs_no_consumer_until_it_is_used_and_then_waits_for_no_poll() {
    let stage = stage("fifo", &[]).await;
    let mut taker = stage.taker("pictures").await;
    let nobody = Tenant::default();
    stage.submit(&of(&nobody, Shard::default())).await;
    taker.take(1, 1).await;
    let of_shard = |number| Priority::ALL.map(|priority| (priority, Shard::new(number).unwrap()));
    let flows: Vec<_> = (1..Shard::SHARED).flat_map(of_shard).collect();
    assert_eq!(flows.len(), 28);
    let begun = Instant::now();
    for (priority, shard) in flows {
        // The epoch of a lease is the revision of its key: the first of the bucket here.
        let consumer = Flow::Task(pictures(), priority, shard).consumer(1);
        assert!(stage.bus.backlog(STREAM_TASKS, &consumer).await.unwrap().is_none());
        let first = TaskEvent { priority, ..of(&nobody, shard) };
        stage.submit(&first).await;
        assert_eq!(taker.take(1, 1).await[0].id, first.id);
        assert!(stage.bus.backlog(STREAM_TASKS, &consumer).await.unwrap().is_some());
    }
    // Each of them would have waited for the next poll, which comes every half second.
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_tenants_seen_have_shards_of_their_own_and_none_twice() {
    let stage = stage("fifo", &[]).await;
    let tenants = crowd(60);
    for tenant in &tenants {
        stage.submit(&of(tenant, Shard::shared_by_hash(tenant))).await;
    }
    let mut taker = stage.taker("pictures").await;
    taker.take(60, 8).await;
    soon(async {
        loop {
            let mut shards = Vec::new();
            for tenant in &tenants {
                shards.push(stage.shard_of("pictures", tenant).await);
            }
            let own: Vec<&Shard> = shards.iter().filter(|s| Shard::ASSIGNED.contains(&s.number())).collect();
            if own.len() == Shard::ASSIGNED.len() {
                assert_eq!(own.iter().collect::<BTreeSet<_>>().len(), own.len(), "two tenants share one");
                return;
            }
        }
    })
    .await;
}
