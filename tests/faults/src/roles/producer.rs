//! Submits by the SDK: singly and in bundles, delayed, keyed, cancelled, with webhooks.

use super::Producer;
use super::tasks::{Choice, HOOK, Mix, PLAIN_TYPE};
use crate::chance::Chance;
use crate::journal::{Event, Journal};
use jetlane::{Client, Error, Submit, Task, TaskHandle, TaskId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often tasks are submitted.
const TURN: Duration = Duration::from_millis(250);
/// The pause before a submission whose outcome is unknown is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Submissions under way at one time.
const UNDER_WAY_MAX: usize = 2_000;
/// How long a submission under way may take once the producer is told to end.
const LAST_TIME_MAX: Duration = Duration::from_secs(10);
/// One of so many bundled tasks is waited for.
const WAITED_FOR_EVERY: u64 = 10;
/// How long a completion is waited for.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// One of so many tasks asks for a webhook.
const HOOK_PERCENT: u64 = 5;

/// The webhook endpoint that a task asks for.
type Hook = Option<&'static str>;

/// Submits until it is told to end.
pub(super) async fn run(producer: &Producer, journal: &Arc<Journal>, drain: CancellationToken) -> anyhow::Result<()> {
    let client = producer.place.client().await?;
    let pid = std::process::id();
    let mut chance = Chance::new(producer.seed ^ (u64::from(pid) << 20));
    let (mut under_way, room) = (JoinSet::new(), Arc::new(Semaphore::new(UNDER_WAY_MAX)));
    let mut turns = interval(TURN);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0_u64;
    let a_turn = (producer.rate * u64::try_from(TURN.as_millis()).unwrap_or(1) / 1_000).max(1);
    while producer.tasks == 0 || number < producer.tasks {
        tokio::select! {
            _ = turns.tick() => {}
            () = drain.cancelled() => break,
        }
        let Ok(permit) = tokio::time::timeout(TURN, Arc::clone(&room).acquire_owned()).await else { continue };
        let mut bundle = Vec::new();
        for _ in 0..a_turn {
            number += 1;
            let choice = Choice::draw(producer.mix, format!("{}-{pid}-{number}", producer.place.name), &mut chance);
            let hook = (producer.mix == Mix::All && chance.percent(HOOK_PERCENT)).then_some(HOOK);
            match choice {
                Choice::Bundled(_) => bundle.push((choice, hook)),
                other => {
                    let (client, journal) = (client.clone(), Arc::clone(journal));
                    under_way.spawn(async move { one(&client, &journal, other, hook).await });
                }
            }
        }
        let (client, journal) = (client.clone(), Arc::clone(journal));
        under_way.spawn(async move {
            bundled(&client, &journal, bundle).await;
            drop(permit);
        });
        while under_way.try_join_next().is_some() {}
    }
    let last = async { while under_way.join_next().await.is_some() {} };
    let _given_up = tokio::time::timeout(LAST_TIME_MAX, last).await;
    // With a number of tasks it is done: it stays, so that nobody starts it again.
    if producer.tasks > 0 {
        drain.cancelled().await;
    }
    Ok(())
}

fn announce(journal: &Journal, choice: &Choice, marker: &str, task_type: &str, id: Option<&TaskId>, hook: Hook) {
    journal.write(Event::Submit {
        marker: marker.to_owned(),
        id: id.map(ToString::to_string),
        task_type: task_type.to_owned(),
        expect: choice.expect(),
        retries: choice.retries(),
        webhook: hook.is_some(),
        delay_us: choice.delay().map_or(0, |delay| u64::try_from(delay.as_micros()).unwrap_or(u64::MAX)),
    });
}

/// Submits tasks that share messages. One whose outcome is unknown is not submitted again.
async fn bundled(client: &Client, journal: &Journal, bundle: Vec<(Choice, Hook)>) {
    let mut submits = Vec::new();
    let mut markers = Vec::new();
    for (choice, hook) in bundle {
        let Choice::Bundled(work) = &choice else { continue };
        announce(journal, &choice, &work.marker, super::tasks::Work::TYPE, None, hook);
        markers.push(work.marker.clone());
        submits.push(with_hook(client.submit(work.clone()), hook));
    }
    let mut waited_for = Vec::new();
    for ((marker, answer), number) in markers.into_iter().zip(client.submit_all(submits).await).zip(0_u64..) {
        match answer {
            Ok(handle) => {
                accepted(journal, &marker, &handle);
                if number % WAITED_FOR_EVERY == 0 {
                    waited_for.push(handle);
                }
            }
            Err(error) => unknown(journal, &marker, &error),
        }
    }
    for handle in waited_for {
        hear(journal, super::tasks::Work::TYPE, handle).await;
    }
}

fn with_hook<O: Send + 'static>(submit: Submit<O>, hook: Hook) -> Submit<O> {
    match hook {
        Some(endpoint) => submit.webhook(endpoint),
        None => submit,
    }
}

fn accepted<O>(journal: &Journal, marker: &str, handle: &TaskHandle<O>) {
    let duplicate = handle.accepted().is_some_and(|accepted| accepted.duplicate);
    journal.write(Event::Accept { marker: marker.to_owned(), id: handle.id().to_string(), duplicate });
}

fn unknown(journal: &Journal, marker: &str, error: &Error) {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    journal.write(Event::Unknown { marker: marker.to_owned(), error: text });
}

async fn hear<O: serde::de::DeserializeOwned + Send + 'static>(
    journal: &Journal,
    task_type: &str,
    mut handle: TaskHandle<O>,
) {
    if let Ok(Ok(completion)) = tokio::time::timeout(WAIT_MAX, handle.completion()).await {
        let (id, outcome) = (handle.id().to_string(), completion.outcome.to_string());
        journal.write(Event::Heard { id, task_type: task_type.to_owned(), outcome });
    }
}

/// Submits one task, again and again under the same id until it is accepted.
async fn one(client: &Client, journal: &Journal, choice: Choice, hook: Hook) {
    let id = TaskId::generate();
    match choice.clone() {
        Choice::Bundled(_) => {}
        Choice::Named(work, delay) => {
            announce(journal, &choice, &work.marker, super::tasks::Work::TYPE, Some(&id), hook);
            let submit = || {
                let submit = with_hook(client.submit(work.clone()), hook).id(id.clone());
                match delay {
                    Some(delay) => submit.delay(delay),
                    None => submit,
                }
            };
            until_accepted(journal, &work.marker, submit).await;
        }
        Choice::Once(once) => {
            announce(journal, &choice, &once.marker, super::tasks::Once::TYPE, Some(&id), hook);
            until_accepted(journal, &once.marker, || with_hook(client.submit(once.clone()), hook).id(id.clone())).await;
        }
        Choice::Hard(hard) => {
            announce(journal, &choice, &hard.marker, super::tasks::Hard::TYPE, Some(&id), hook);
            until_accepted(journal, &hard.marker, || with_hook(client.submit(hard.clone()), hook).id(id.clone())).await;
        }
        Choice::Cancelled(work) => {
            // Without a webhook: a client that cancels does not know the callbacks of the task (a known limit).
            announce(journal, &choice, &work.marker, super::tasks::Work::TYPE, Some(&id), None);
            let submit = || client.submit(work.clone()).id(id.clone());
            let handle = until_accepted(journal, &work.marker, submit).await;
            while let Err(error) = handle.cancel().await {
                unknown(journal, &work.marker, &error);
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
        Choice::Keyed(work) => {
            announce(journal, &choice, &work.marker, super::tasks::Work::TYPE, None, hook);
            let submit = || with_hook(client.submit(work.clone()), hook).key(work.marker.clone());
            until_accepted(journal, &work.marker, submit).await;
            let handle = until_accepted(journal, &work.marker, submit).await;
            hear(journal, super::tasks::Work::TYPE, handle).await;
        }
        Choice::Plain(work) => {
            announce(journal, &choice, &work.marker, PLAIN_TYPE, Some(&id), None);
            let body = serde_json::to_vec(&work).expect("a task is JSON");
            let submit = || client.submit_json(PLAIN_TYPE, body.clone()).id(id.clone());
            until_accepted(journal, &work.marker, submit).await;
        }
    }
}

async fn until_accepted<O: Send + 'static>(
    journal: &Journal,
    marker: &str,
    submit: impl Fn() -> Submit<O>,
) -> TaskHandle<O> {
    loop {
        match submit().await {
            Ok(handle) => {
                accepted(journal, marker, &handle);
                return handle;
            }
            Err(error) => {
                unknown(journal, marker, &error);
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}
