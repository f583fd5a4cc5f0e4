//! Suspects whose deadline has passed: an executor may have begun one in time, by a copy that an earlier leader
//! dispatched. Executors are asked before such a task is ended; while one of them runs it, or a later run of it waits or
//! runs, the copy waits here.

use super::Leader;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jetlane_bus::inquire::Reply;
use jetlane_bus::{Bus, Error, clock};
use jetlane_core::EntryId;
use jetlane_schemas::inquiry::{InquiredRun, Inquiry, InquiryReply};
use jetlane_schemas::{Micros, subject};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long executors have to answer: silence means that none of them runs the task.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// The pause before executors are asked again about a task that one of them runs, or that could not be asked for.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Tasks that one question names: they usually expire together after a change of leader, and nobody runs any of them.
const ASKED_TOGETHER_MAX: usize = 128;
/// Questions that are asked at once. Each goes to all executors of the queue.
const QUESTIONS_MAX: usize = 64;

/// The suspects of a leader that are to be ended. Their number is bounded by what the leader holds.
pub(crate) struct Suspects {
    /// Decided on in this turn.
    pub(super) doubtful: Vec<EntryId>,
    pub(super) questions: FuturesUnordered<BoxFuture<'static, Inquired>>,
    at_once: Arc<Semaphore>,
}

impl Default for Suspects {
    fn default() -> Self {
        let at_once = Arc::new(Semaphore::new(QUESTIONS_MAX));
        Self { doubtful: Vec::new(), questions: FuturesUnordered::new(), at_once }
    }
}

/// What executors said about tasks.
pub(crate) struct Inquired {
    entries: Vec<EntryId>,
    found: Result<Found, Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// An executor runs one of the tasks, or a later run of one is scheduled.
    Running,
    Nobody,
    /// The connection was lost meanwhile: nobody may have been asked.
    Unknown,
}

impl Leader {
    /// Asks about the suspects of this turn.
    pub(super) fn inquire_doubtful(&mut self) {
        let mut doubtful = std::mem::take(&mut self.suspects.doubtful);
        while !doubtful.is_empty() {
            let rest = doubtful.split_off(doubtful.len().min(ASKED_TOGETHER_MAX));
            self.inquire(std::mem::replace(&mut doubtful, rest), Duration::ZERO);
        }
    }

    fn inquire(&mut self, entries: Vec<EntryId>, pause: Duration) {
        let run_of = |entry: &EntryId| {
            let task = &self.held.get(entry)?.task;
            Some(InquiredRun {
                task_type: task.task_type.clone(),
                id: task.id.clone(),
                run: task.run,
                started_at: None,
            })
        };
        let inquiry = Inquiry {
            executor: self.world.holder.clone(),
            sequence: 0,
            stored_at: Micros::default(),
            delivered: 0,
            ack: String::new(),
            runs: entries.iter().filter_map(run_of).collect(),
            mark: None,
        };
        let (bus, subject, at_once) =
            (self.world.bus.clone(), subject::owner(&self.queue), Arc::clone(&self.suspects.at_once));
        self.suspects.questions.push(Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let _turn = at_once.acquire().await;
            Inquired { entries, found: ask(&bus, &subject, &inquiry).await }
        }));
    }

    /// Ends tasks that nobody runs; asks again later about the others.
    pub(super) fn inquired(&mut self, Inquired { entries, found }: Inquired) {
        match found {
            Ok(Found::Nobody) => entries.into_iter().for_each(|entry| {
                if self.goes_on(entry) { self.inquire(vec![entry], ASK_AGAIN_AFTER) } else { self.finish(entry) }
            }),
            Ok(Found::Running) if entries.len() > 1 => {
                entries.into_iter().for_each(|entry| self.inquire(vec![entry], Duration::ZERO));
            }
            Ok(Found::Running | Found::Unknown) => self.inquire(entries, ASK_AGAIN_AFTER),
            Err(error) => {
                tracing::warn!(queue = %self.queue, %error, "Executors could not be asked about tasks whose deadline has passed; asking again.");
                self.inquire(entries, ASK_AGAIN_AFTER);
            }
        }
    }

    /// Whether a later run of the task came to this leader meanwhile.
    fn goes_on(&self, entry: EntryId) -> bool {
        let Some(task) = self.held.get(&entry).map(|held| &held.task) else { return false };
        self.runs.has_later(clock::now(), &task.task_type, &task.id, task.run)
    }
}

async fn ask(bus: &Bus, subject: &str, inquiry: &Inquiry) -> Result<Found, Error> {
    let connection = *bus.connections().borrow();
    let question = serde_json::to_vec(inquiry).expect("text and numbers are JSON");
    let reply = bus.inquire(subject, question.into(), ANSWER_WITHIN).await?;
    if *bus.connections().borrow() != connection || !*bus.connected().borrow() {
        return Ok(Found::Unknown);
    }
    let found = match reply {
        Reply::Answer(answer) => match serde_json::from_slice(&answer) {
            Ok(InquiryReply::Unheld | InquiryReply::Unbegun) | Err(_) => Found::Nobody,
            Ok(InquiryReply::Adopted | InquiryReply::Superseded | InquiryReply::Running) => Found::Running,
        },
        Reply::Silent | Reply::Nobody => Found::Nobody,
    };
    if found == Found::Nobody {
        for InquiredRun { task_type, id, run, .. } in &inquiry.runs {
            let next = bus.scheduled(id).await?.map(|(_, task)| task);
            if next.is_some_and(|next| next.task_type == *task_type && next.run > *run) {
                return Ok(Found::Running);
            }
        }
    }
    Ok(found)
}
