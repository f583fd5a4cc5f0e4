//! Many submissions in few messages: those that go to the same place share one, up to the bounds of a
//! bundle; without bundles they share a wait. What there is when the tasks end is sent, full or not, as
//! `gathering` has it.

use super::gathering::{BUNDLE_BYTES_MAX, shared, store_apart};
use super::send::{publish_span, submit_span};
use super::{Accepted, Door, Ready, Submit};
use crate::client::Client;
use crate::error::Error;
use crate::handle::TaskHandle;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use jetlane_bus::trace;
use jetlane_schemas::{Admit, Priority, QueueName, Shard, TaskEvent, frame, subject};
use std::future::IntoFuture;
use tracing::Span;

/// What waits for acks at once: so many sendings, or more of them where all carry fewer tasks than below.
const SENDINGS_IN_FLIGHT: usize = 64;
/// Tasks that may wait for acks at once, however few a message carries.
const TASKS_IN_FLIGHT: usize = 512;
/// Tasks of a client without bundles whose messages are waited for together.
const APART_MAX: usize = 32;
/// Tasks that are read before what is not full is sent all the same.
const TASKS_A_ROUND: usize = 1_024;

/// Where a task goes: what goes to the same place can share a message.
type Place = (QueueName, Priority, Shard);
type Answers<O> = Vec<(usize, Result<TaskHandle<O>, Error>)>;
type Sending<O> = BoxFuture<'static, Answers<O>>;

/// Tasks that share a message, or a wait.
struct Bundle {
    place: Place,
    bytes: usize,
    client: Client,
    tasks: Vec<(usize, Ready)>,
}

/// What is on its way, and what has been told.
struct Round<O> {
    open: Vec<Bundle>,
    under_way: FuturesUnordered<Sending<O>>,
    /// The tasks of what is under way.
    in_flight: usize,
    told: Vec<Option<Result<TaskHandle<O>, Error>>>,
    /// How many tasks there are, at least.
    expected: usize,
}

/// See [`Client::submit_all`].
pub(crate) async fn submit_all<O: Send + 'static>(
    tasks: impl IntoIterator<Item = Submit<O>>,
) -> Vec<Result<TaskHandle<O>, Error>> {
    let tasks = tasks.into_iter();
    let expected = tasks.size_hint().0;
    let told = Vec::with_capacity(expected);
    let mut round = Round { open: Vec::new(), under_way: FuturesUnordered::new(), in_flight: 0, told, expected };
    for (number, submit) in tasks.enumerate() {
        round.told.push(None);
        round.add(number, submit).await;
        if (number + 1) % TASKS_A_ROUND == 0 {
            round.send_open().await;
        }
    }
    round.send_open().await;
    while round.hear().await {}
    round.told.into_iter().map(|told| told.expect("every submission is answered")).collect()
}

impl<O: Send + 'static> Round<O> {
    async fn add(&mut self, number: usize, submit: Submit<O>) {
        let most = together_most(&submit.client);
        if !submit.can_share() {
            let alone = submit.into_future();
            return self.send(1, Box::pin(async move { vec![(number, alone.await)] })).await;
        }
        let (client, ready) = match submit.ready() {
            Ok(ready) => ready,
            Err(error) => {
                self.told[number] = Some(Err(error));
                return;
            }
        };
        if !ready.known || ready.door == Door::Open || ready.task.admit == Admit::Strict {
            let alone = async move { vec![(number, super::submit_ready(client, ready).await)] };
            return self.send(1, Box::pin(alone)).await;
        }
        let place = (ready.task.queue.clone(), ready.task.priority, ready.task.shard);
        let bytes = frame::frame_bytes(&ready.task);
        let found = self.open.iter().position(|bundle| bundle.place == place);
        if let Some(full) = found.filter(|found| self.open[*found].bytes + bytes > BUNDLE_BYTES_MAX) {
            let bundle = self.open.swap_remove(full);
            self.send_bundle(bundle).await;
        }
        match self.open.iter_mut().find(|bundle| bundle.place == place) {
            Some(bundle) => {
                bundle.bytes += bytes;
                bundle.tasks.push((number, ready));
            }
            None => {
                let mut tasks = Vec::with_capacity(most.min(self.expected.saturating_sub(number)));
                tasks.push((number, ready));
                self.open.push(Bundle { place, bytes, client, tasks });
            }
        }
        if let Some(full) = self.open.iter().position(|bundle| bundle.tasks.len() >= most) {
            let bundle = self.open.swap_remove(full);
            self.send_bundle(bundle).await;
        }
    }

    async fn send_open(&mut self) {
        for bundle in std::mem::take(&mut self.open) {
            self.send_bundle(bundle).await;
        }
    }

    async fn send_bundle(&mut self, bundle: Bundle) {
        self.send(bundle.tasks.len(), Box::pin(bundle.send())).await;
    }

    async fn send(&mut self, tasks: usize, sending: Sending<O>) {
        self.in_flight += tasks;
        self.under_way.push(sending);
        while self.under_way.len() >= SENDINGS_IN_FLIGHT && self.in_flight >= TASKS_IN_FLIGHT && self.hear().await {}
    }

    /// Takes what one sending was answered; `false` once none is on its way.
    async fn hear(&mut self) -> bool {
        let Some(answers) = self.under_way.next().await else { return false };
        self.in_flight -= answers.len();
        for (number, answer) in answers {
            self.told[number] = Some(answer);
        }
        true
    }
}

/// The most tasks that go together: in a message, or in so many of them.
fn together_most(client: &Client) -> usize {
    match client.bundle_most() {
        1 => APART_MAX,
        most => most,
    }
}

/// Stores tasks of the same place; the answers have their order.
async fn store(
    client: &Client,
    subject: &str,
    tasks: Vec<Box<TaskEvent>>,
) -> Vec<Result<Accepted, jetlane_bus::Error>> {
    let (most, count) = (client.bundle_most(), tasks.len());
    if most == 1 {
        return store_apart(client.bus(), subject, &tasks).await;
    }
    match client.gathering().store(subject, tasks, most).await {
        Ok(accepted) => (0..count).map(|_| Ok(accepted)).collect(),
        Err(error) => failed(count, subject, &error),
    }
}

/// The same error for each of so many.
fn failed<T>(
    count: usize,
    subject: &str,
    error: &(dyn std::error::Error + 'static),
) -> Vec<Result<T, jetlane_bus::Error>> {
    let one = |_| Err(jetlane_bus::Error::Bundle { subject: subject.to_owned(), source: shared(error) });
    (0..count).map(one).collect()
}

impl Bundle {
    async fn send<O: Send + 'static>(self) -> Answers<O> {
        let client = self.client;
        let (queue, priority, shard) = &self.place;
        let subject = subject::task(queue, *priority, *shard);
        // Listening begins before any of them can complete.
        let listeners = client.listening().expect_all(self.tasks.iter().map(|(_, ready)| &*ready.task)).await;
        let count = self.tasks.len();
        let (mut named, mut events, mut spans) = (Vec::with_capacity(count), Vec::with_capacity(count), Vec::new());
        for (number, mut ready) in self.tasks {
            spans.extend(join_trace(&mut ready));
            named.push((number, ready.id, ready.task.task_type.clone()));
            events.push(ready.task);
        }
        let stored = match listeners {
            Ok(listeners) => {
                let stored = store(&client, &subject, events).await.into_iter().zip(listeners);
                stored.map(|(stored, listener)| stored.map(|accepted| (accepted, listener))).collect()
            }
            Err(error) => failed(count, &subject, &error),
        };
        drop(spans);
        let handle = |((number, id, task_type), stored)| {
            let handle = match stored {
                Ok((accepted, listener)) => {
                    Ok(TaskHandle::submitted(client.clone(), task_type, id, accepted, listener))
                }
                Err(source) => Err(Error::Submit { id, source }),
            };
            (number, handle)
        };
        named.into_iter().zip(stored).map(handle).collect()
    }
}

/// One trace a task: its spans end when the bundle is stored.
fn join_trace(ready: &mut Ready) -> Option<[Span; 2]> {
    let submit = submit_span(ready);
    if submit.is_disabled() {
        return None;
    }
    let publish = submit.in_scope(|| publish_span(ready));
    match trace::propagation() {
        trace::Propagation::None => {}
        trace::Propagation::Child | trace::Propagation::Link => ready.task.trace = trace::context_of(&publish),
    }
    Some([publish, submit])
}
