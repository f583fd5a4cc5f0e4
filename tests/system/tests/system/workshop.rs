//! A workshop: a queue with one executor of one slot whose runs a test lets end one by one. So the order
//! in which tasks begin is the order in which the leader chose them, and no clock decides a test.

use crate::tasks::{Bench, Gated, gated};
use crate::waits::announced;
use jetlane::{
    Answer, Client, Concurrency, Error, Executor, Explanation, QueueEntry, QueueName, Submit, Task, TaskHandle, TaskId,
};
use jetlane_schemas::registry::{Order, PolicyName};
use jetlane_schemas::subject;
use jetlane_testkit::{Kit, PATIENCE};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The queue of all these tests.
pub(crate) const QUEUE: &str = "tests";
/// The task that keeps the executor busy while others come.
const FIRST: &str = "first";
/// What that one is said to take.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// How often a leader is asked: it answers twenty questions a second.
const ASK_EVERY: Duration = Duration::from_millis(60);

/// See the module.
pub(crate) struct Workshop {
    pub(crate) kit: Kit,
    pub(crate) bench: Bench,
}

impl Workshop {
    /// With this policy; its executor is busy with a first task.
    pub(crate) async fn busy(policy: PolicyName) -> Self {
        let (kit, bench) = (Kit::start().await, Bench::default());
        declare(&kit, &ordered(policy)).await;
        kit.serve(one_by_one(kit.client(), &bench).task(gated));
        announced(&kit, Gated::TYPE).await;
        let workshop = Self { kit, bench };
        workshop.occupy().await;
        workshop
    }

    /// Gives the executor its first task.
    pub(crate) async fn occupy(&self) {
        self.task(FIRST).estimate(LONG).await.expect("accepted");
        self.bench.begun(1).await;
    }

    /// A task of this name, to be submitted.
    pub(crate) fn task(&self, name: impl Into<String>) -> Submit<String> {
        self.kit.client().submit(Gated { text: name.into() })
    }

    /// Lets so many runs end, and waits until as many others have begun: what began after the first task.
    pub(crate) async fn let_end(&self, runs: usize) -> Vec<String> {
        let before = self.bench.began.lock().await.len();
        self.bench.gate.0.add_permits(runs);
        let began = self.bench.begun(before + runs).await;
        began.into_iter().skip(1).map(|(name, _)| name).collect()
    }

    /// Waits until the leader holds a task, and says this of it.
    pub(crate) async fn until_told(&self, id: &TaskId, is_it: impl Fn(&Explanation) -> bool) -> Explanation {
        until_told(self.kit.client(), id, is_it).await
    }
}

/// One slot and nothing in hand beside it: what goes next is decided when the slot is free, and not before.
pub(crate) fn one_by_one(client: &Client, bench: &Bench) -> Executor<Bench> {
    executor(client, bench, 1).prefetch(0)
}

/// Its room depends on nothing that else happens on the machine.
pub(crate) fn executor(client: &Client, bench: &Bench, slots: usize) -> Executor<Bench> {
    Executor::new(client, QUEUE).state(bench.clone()).slots(slots).concurrency(Concurrency::Fixed)
}

/// A queue in this order.
pub(crate) fn ordered(policy: PolicyName) -> QueueEntry {
    QueueEntry { order: Order::of(policy), ..QueueEntry::default() }
}

/// Declares the queue, or changes it.
pub(crate) async fn declare(kit: &Kit, entry: &QueueEntry) {
    let registry = kit.client().bus().bucket(subject::BUCKET_REGISTRY).await.expect("there is a registry");
    registry.put(&subject::registry_queue(&queue()), entry).await.expect("declared");
}

/// The queue's name.
pub(crate) fn queue() -> QueueName {
    QueueName::new(QUEUE).expect("valid")
}

/// Waits until the leader holds a task, and says this of it.
pub(crate) async fn until_told(client: &Client, id: &TaskId, is_it: impl Fn(&Explanation) -> bool) -> Explanation {
    asked(async || match client.explain(&queue(), id).await {
        Ok(Answer::Explanation(told)) if is_it(&told) => Ok(told),
        other => Err(other),
    })
    .await
}

/// Waits until the leader holds so many tasks that go before this one, which is not submitted.
pub(crate) async fn until_ahead(prospect: impl Fn() -> Submit<String>, tasks: u64) {
    asked(async || match prospect().expected().await {
        Ok(expected) if expected.ahead == tasks => Ok(()),
        other => Err(other),
    })
    .await;
}

/// Asks until the answer is the one that is waited for.
pub(crate) async fn asked<T, A: std::fmt::Debug>(ask: impl AsyncFn() -> Result<T, Result<A, Error>>) -> T {
    let until = Instant::now() + PATIENCE;
    let mut every = interval(ASK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match ask().await {
            Ok(answer) => return answer,
            Err(other) => assert!(Instant::now() < until, "not in time; the last answer: {other:?}"),
        }
    }
}

/// Awaits submissions one after another, so that they stand in this order.
pub(crate) async fn in_turn(submits: impl IntoIterator<Item = Submit<String>>) -> Vec<TaskHandle<String>> {
    let mut handles = Vec::new();
    for submit in submits {
        handles.push(submit.await.expect("accepted"));
    }
    handles
}
