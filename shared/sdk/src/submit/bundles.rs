//! Many submissions in few messages: those that go to the same place share one, up to the bounds of a
//! bundle. What there is when the tasks end is sent, full or not, as `gathering` has it.

use super::gathering::{BUNDLE_BYTES_MAX, shared};
use super::send::{publish_span, submit_span};
use super::{Ready, Submit};
use crate::client::Client;
use crate::error::Error;
use crate::handle::TaskHandle;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use jetlane_bus::trace;
use jetlane_schemas::{Admit, Priority, QueueName, Shard, frame, subject};
use std::future::IntoFuture;
use tracing::Span;

/// Messages that wait for their acks at once.
const MESSAGES_IN_FLIGHT: usize = 64;
/// Tasks that are read before what is not full is sent all the same.
const TASKS_A_ROUND: usize = 1_024;

/// Where a task goes: what goes to the same place can share a message.
type Place = (QueueName, Priority, Shard);
/// An error that all tasks of a bundle are told.
type Source = Box<dyn std::error::Error + Send + Sync>;
type Answers<O> = Vec<(usize, Result<TaskHandle<O>, Error>)>;
type Sending<O> = BoxFuture<'static, Answers<O>>;

/// Tasks that share a message.
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
    let mut round = Round { open: Vec::new(), under_way: FuturesUnordered::new(), told, expected };
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
        let most = submit.client.bundle_most();
        if !submit.can_share() {
            let alone = submit.into_future();
            return self.send(Box::pin(async move { vec![(number, alone.await)] })).await;
        }
        let (client, ready) = match submit.ready() {
            Ok(ready) => ready,
            Err(error) => {
                self.told[number] = Some(Err(error));
                return;
            }
        };
        if !ready.known || ready.task.admit == Admit::Strict {
            let alone = async move { vec![(number, super::submit_ready(client, ready).await)] };
            return self.send(Box::pin(alone)).await;
        }
        let place = (ready.task.queue.clone(), ready.task.priority, ready.task.shard);
        let bytes = frame::frame_bytes(&ready.task);
        let found = self.open.iter().position(|bundle| bundle.place == place);
        if let Some(full) = found.filter(|found| self.open[*found].bytes + bytes > BUNDLE_BYTES_MAX) {
            let bundle = self.open.swap_remove(full);
            self.send(Box::pin(bundle.send())).await;
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
            self.send(Box::pin(bundle.send())).await;
        }
    }

    async fn send_open(&mut self) {
        for bundle in std::mem::take(&mut self.open) {
            self.send(Box::pin(bundle.send())).await;
        }
    }

    async fn send(&mut self, sending: Sending<O>) {
        self.under_way.push(sending);
        while self.under_way.len() >= MESSAGES_IN_FLIGHT && self.hear().await {}
    }

    /// Takes what one message was answered; `false` once none is on its way.
    async fn hear(&mut self) -> bool {
        let Some(answers) = self.under_way.next().await else { return false };
        for (number, answer) in answers {
            self.told[number] = Some(answer);
        }
        true
    }
}

impl Bundle {
    async fn send<O: Send + 'static>(self) -> Answers<O> {
        let client = self.client;
        let (queue, priority, shard) = &self.place;
        let subject = subject::task(queue, *priority, *shard);
        // Listening begins before any of them can complete.
        let listeners = client.listening().expect_all(self.tasks.iter().map(|(_, ready)| &ready.task)).await;
        let count = self.tasks.len();
        let (mut named, mut events, mut spans) = (Vec::with_capacity(count), Vec::with_capacity(count), Vec::new());
        for (number, mut ready) in self.tasks {
            spans.extend(join_trace(&mut ready));
            named.push((number, ready.id, ready.task.task_type.clone()));
            events.push(ready.task);
        }
        let most = client.bundle_most();
        let stored = match listeners {
            Ok(listeners) => {
                let stored = client.gathering().store(&subject, events, most).await;
                stored.map(|accepted| (accepted, listeners)).map_err(Source::from)
            }
            Err(error) => Err(Source::from(error)),
        };
        drop(spans);
        match stored {
            Ok((accepted, listeners)) => named
                .into_iter()
                .zip(listeners)
                .map(|((number, id, task_type), listener)| {
                    (number, Ok(TaskHandle::submitted(client.clone(), task_type, id, accepted, listener)))
                })
                .collect(),
            Err(error) => named
                .into_iter()
                .map(|(number, id, _)| {
                    let source = jetlane_bus::Error::Bundle { subject: subject.clone(), source: shared(&*error) };
                    (number, Err(Error::Submit { id, source }))
                })
                .collect(),
        }
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
