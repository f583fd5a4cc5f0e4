//! Who takes tasks: executors that announce credit, and clients in any language, which are overheard:
//! their pulls here, their answers in `answers`.

use super::Leader;
use super::answers::Answers;
use super::output::{Beside, Carried};
use crate::carry::{self, Joins};
use crate::error::Error;
use crate::{names, plain, read};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jetlane_bus::flows::Backlog;
use jetlane_bus::{Bus, Delivery, Message, Pulled, Subscription, clock};
use jetlane_core::plain::PLAIN_SILENCE_MAX;
use jetlane_core::{EntryId, Event, FitId};
use jetlane_schemas::frame::{Credit, RUNS_TOLD_MAX};
use jetlane_schemas::subject::{BUCKET_REGISTRY, Lane, STREAM_LANES};
use jetlane_schemas::{Failure, Fit, Micros, Outcome, Priority, TaskType, subject};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Messages of a plain lane that are taken back at once.
const TAKE_BACK_MAX: usize = 16;
/// How long a lane that is taken back may be silent until it counts as empty.
const TAKE_BACK_SILENCE: Duration = Duration::from_millis(500);
/// The pause before a message that is no task is put aside again, for which there was no room.
const PUT_ASIDE_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// How often it is tried to say that completions have to be read; the next leader says it anew.
const SAY_TRIES_MAX: u32 = 600;
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is overheard on a plain lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Pull,
    Answer,
}

/// A subscription to what a lane's clients send.
struct Ear {
    lane: Lane,
    what: What,
    subscription: Subscription,
}

/// Something that was overheard.
pub(crate) struct Heard {
    lane: Lane,
    what: What,
    heard: Result<(Subscription, Option<Message>), jetlane_bus::Error>,
}

/// A plain lane, as far as this leader knows it.
#[derive(Debug, Default)]
struct PlainLane {
    /// When the last pull that was overheard expires.
    served_until: Micros,
    /// Messages that lay in it unpulled when it was last counted.
    pending: u64,
    taking_back: TakingBack,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum TakingBack {
    #[default]
    No,
    Yes,
}

/// The clients of a queue's lanes.
#[derive(Default)]
pub(crate) struct Clients {
    pub(crate) heard: FuturesUnordered<BoxFuture<'static, Heard>>,
    lanes: BTreeMap<Lane, PlainLane>,
    /// What was sent to plain lanes, and what is heard of it.
    pub(super) answers: Answers,
    /// Types of which it was written that such clients were given tasks with callbacks.
    called_back: BTreeSet<TaskType>,
}

impl Clients {
    /// Listens to the clients of a plain lane.
    pub(crate) fn listen(&mut self, bus: &Bus, lane: &Lane) {
        self.lanes.entry(lane.clone()).or_default();
        for what in [What::Pull, What::Answer] {
            let (bus, lane) = (bus.clone(), lane.clone());
            self.heard.push(Box::pin(async move {
                let subject = match what {
                    What::Pull => names::pulls_of(&lane),
                    What::Answer => names::answers_of(&lane),
                };
                match bus.subscribe(&subject).await {
                    Ok(subscription) => hear(Ear { lane, what, subscription }).await,
                    Err(error) => Heard { lane, what, heard: Err(error) },
                }
            }));
        }
    }

    /// Whether somebody pulls from the plain lane of this priority and fit, or did a moment ago.
    pub(crate) fn serves(&self, now: Micros, priority: Priority, fit: &Fit) -> bool {
        let is_served = |state: &PlainLane| state.served_until.0.saturating_add(PLAIN_SILENCE_MAX.0) >= now.0;
        let is_it = |lane: &Lane| lane.priority == priority && lane.fit == *fit;
        self.lanes.iter().any(|(lane, state)| is_it(lane) && is_served(state))
    }

    /// Lanes in which tasks may lie that nobody has pulled for long.
    pub(crate) fn deserted(&self, now: Micros) -> Vec<Lane> {
        let is_deserted = |lane: &Lane, state: &PlainLane| {
            state.taking_back == TakingBack::No
                && state.served_until.0.saturating_add(PLAIN_SILENCE_MAX.0) < now.0
                && (state.pending > 0 || self.answers.awaits(lane))
        };
        self.lanes.iter().filter(|(lane, state)| is_deserted(lane, state)).map(|(lane, _)| lane.clone()).collect()
    }
}

async fn hear(mut ear: Ear) -> Heard {
    let message = ear.subscription.next().await;
    Heard { lane: ear.lane, what: ear.what, heard: Ok((ear.subscription, message)) }
}

/// A client's request for the next messages: a JSON object, or only their number, or nothing at all.
#[derive(Debug, Default, Deserialize)]
struct NextRequest {
    /// How long the request waits, in nanoseconds.
    #[serde(default)]
    expires: u64,
}

/// Until when a request waits. One without an end waits until it is answered: as long as is credible.
fn waits_until(now: Micros, body: &[u8]) -> Micros {
    let request: NextRequest = serde_json::from_slice(body).unwrap_or_default();
    Micros(now.0.saturating_add(request.expires / 1_000))
}

impl Leader {
    pub(super) fn take_credit(&mut self, message: &Message) {
        let now = clock::now();
        match Credit::decode(&message.body) {
            Ok(mut credit) => {
                let (runs, remaining) = (std::mem::take(&mut credit.runs), std::mem::take(&mut credit.remaining));
                self.hear_fits(now, &credit);
                self.core.on(now, Event::Credit(credit));
                runs.iter().take(RUNS_TOLD_MAX).for_each(|ended| self.run_ended(now, ended));
                remaining.into_iter().take(RUNS_TOLD_MAX).for_each(|told| self.run_remains(now, told));
            }
            Err(error) => tracing::warn!(queue = %self.queue, %error, "An announcement of credit cannot be read."),
        }
    }

    pub(super) fn take_heard(&mut self, heard: Heard) -> Result<(), Error> {
        let Heard { lane, what, heard } = heard;
        let (subscription, message) = match heard {
            Ok((subscription, message)) => (subscription, message.ok_or(Error::Closed)?),
            Err(error) => {
                tracing::warn!(%error, "The clients of a plain lane cannot be heard; trying again.");
                self.clients.listen(&self.world.bus, &lane);
                return Ok(());
            }
        };
        match what {
            What::Pull => self.take_pull(&lane, &message.body),
            What::Answer => self.take_answer(&message),
        }
        self.clients.heard.push(Box::pin(hear(Ear { lane, what, subscription })));
        Ok(())
    }

    fn take_pull(&mut self, lane: &Lane, body: &[u8]) {
        let now = clock::now();
        self.served(lane, waits_until(now, body));
    }

    /// A plain lane is pulled from until then at least.
    fn served(&mut self, lane: &Lane, until: Micros) {
        let Some(state) = self.clients.lanes.get_mut(lane) else { return };
        // One's own pull, to take back what lies there, is nobody's.
        if state.taking_back == TakingBack::No {
            state.served_until = state.served_until.max(until);
            if let Some(fit) = self.core.fit(&lane.fit) {
                self.core.on(clock::now(), Event::PlainPulled { priority: lane.priority, fit, until });
            }
        }
    }

    /// A task goes to a client without an SDK, which stores nothing but its completion: that it is read
    /// for callbacks is said in the registry, once a type. Said late is early enough: it is read from the start.
    pub(super) fn note_called_back(&mut self, entry: EntryId) {
        let Some(held) = self.held.get(&entry) else { return };
        if held.task.callbacks.is_empty() || self.clients.called_back.contains(&held.task.task_type) {
            return;
        }
        let task_type = held.task.task_type.clone();
        let key = subject::registry_plain(&task_type);
        self.clients.called_back.insert(task_type);
        self.write("say which completions have to be read", |bus| async move {
            let mut tries = 1;
            loop {
                let written = async { bus.bucket(BUCKET_REGISTRY).await?.put(&key, &true).await };
                match written.await {
                    Err(_) if tries < SAY_TRIES_MAX => tries += 1,
                    said => return said,
                }
                tokio::time::sleep(SAY_AGAIN_AFTER).await;
            }
        });
    }

    /// Takes back what nobody pulls from a plain lane, for its next run.
    pub(super) fn take_back_deserted(&mut self) {
        for lane in self.clients.deserted(clock::now()) {
            if let Some(state) = self.clients.lanes.get_mut(&lane) {
                state.taking_back = TakingBack::Yes;
            }
            let bus = self.world.bus.clone();
            self.works.push(Box::pin(async move {
                let taken = take_back(&bus, &lane).await;
                Carried::Beside(Beside::TakenBack(lane, taken))
            }));
        }
    }

    pub(super) fn taken_back(&mut self, lane: &Lane, taken: Result<u32, jetlane_bus::Error>) {
        if let Some(state) = self.clients.lanes.get_mut(lane) {
            (state.taking_back, state.pending) = (TakingBack::No, 0);
            // Asked again only after another silence.
            state.served_until = clock::now();
        }
        match taken {
            Ok(0) => {}
            Ok(tasks) => tracing::info!(lane = %lane.subject(), tasks, "Nobody pulled; the tasks were taken back."),
            Err(error) => tracing::warn!(lane = %lane.subject(), %error, "Tasks could not be taken back yet."),
        }
        self.count(vec![lane.clone()]);
    }

    /// The server counted a plain lane.
    pub(super) fn plain_counted(&mut self, lane: &Lane, fit: FitId, backlog: Backlog) {
        let tasks = u32::try_from(backlog.pending + backlog.unanswered).unwrap_or(u32::MAX);
        if tasks == 0 {
            self.clients.answers.counted_empty(lane);
        }
        if let Some(state) = self.clients.lanes.get_mut(lane) {
            state.pending = backlog.pending;
        }
        self.core.on(clock::now(), Event::PlainCounted { priority: lane.priority, fit, tasks });
        if backlog.waiting_pulls > 0 {
            self.served(lane, clock::now());
        }
    }
}

/// Pulls what lies in a plain lane, and stores it to be due at once, as the next run: the message id
/// of this run is taken.
async fn take_back(bus: &Bus, lane: &Lane) -> Result<u32, jetlane_bus::Error> {
    let mut puller = bus.puller(STREAM_LANES, &lane.consumer()).await?;
    puller.ask(TAKE_BACK_MAX, None).await?;
    let mut taken = 0;
    while let Ok(pulled) = tokio::time::timeout(TAKE_BACK_SILENCE, puller.next()).await {
        match pulled {
            Pulled::Delivery(delivery) => taken += take_back_one(bus, lane, &delivery).await?,
            Pulled::Room => {}
            Pulled::Refused(_) | Pulled::Gone | Pulled::Closed => break,
        }
    }
    // What came while the pull was being ended is in nobody's hands but ours.
    for delivery in puller.end().await {
        taken += take_back_one(bus, lane, &delivery).await?;
    }
    Ok(taken)
}

async fn take_back_one(bus: &Bus, lane: &Lane, delivery: &Delivery) -> Result<u32, jetlane_bus::Error> {
    let task = plain::read(lane, &delivery.headers(), &delivery.body);
    let Some(mut task) = task else {
        return put_aside(bus, lane, delivery).await.map(|()| 0);
    };
    // Whoever had it before spent an attempt on it.
    let before = u32::try_from(delivery.facts.delivered.saturating_sub(1)).unwrap_or(u32::MAX);
    task.attempts = task.attempts.saturating_add(before);
    carry::postpone(bus, &task, clock::now()).await?;
    delivery.ack.settle().await.map(|()| 1)
}

/// Keeps a message of a lane that is no task as a dead letter, and removes it from the lane.
async fn put_aside(bus: &Bus, lane: &Lane, delivery: &Delivery) -> Result<(), jetlane_bus::Error> {
    let mut task = read::unreadable(lane, delivery.facts.stream_sequence, &delivery.body);
    let failure = Failure::new("frame", "the message is no task");
    let span = carry::end_span(&mut task, Outcome::Rejected, Joins::Child);
    if !carry::end(bus, &task, Outcome::Rejected, failure, &span).await? {
        // DONE is full: it comes again.
        return delivery.ack.give_back(PUT_ASIDE_AGAIN_AFTER).await;
    }
    tracing::warn!(lane = %lane.subject(), task_id = %task.id, "A message that is no task lay in a plain lane; it is a dead letter now.");
    delivery.ack.settle().await
}

/// A question for credit has no content.
pub(super) fn nothing() -> Bytes {
    Bytes::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_pull_is_understood() {
        let now = Micros(1_000_000);
        for (body, until) in [
            (&br#"{"batch":1,"expires":5000000000}"#[..], 6_000_000),
            (br#"{"batch":1,"no_wait":true}"#, 1_000_000),
            (b"5", 1_000_000),
            (b"", 1_000_000),
            (br#"{"expires":18446744073709551615}"#, 18_446_744_073_709_551 + 1_000_000),
        ] {
            assert_eq!(waits_until(now, body), Micros(until), "{}", String::from_utf8_lossy(body));
        }
    }
}
