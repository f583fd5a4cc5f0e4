//! Runs that are expected to end at the first poll of their handler: nothing is woken for them, and the
//! completions of several are stored together.

use super::ending::{complete_span, lost_to};
use super::{Answered, Begun, Desk, Facts, Job, Run, Settled, delivered, is_looked_up, settled_by};
use crate::executor::completing::Stored;
use crate::executor::note::Note;
use crate::executor::telling::Ran;
use jetlane_bus::done::Completed;
use jetlane_bus::{clock, trace};
use jetlane_core::run::{Begin, Evidence, Marking, Verdict, judge};
use jetlane_schemas::frame::RunEnd;
use jetlane_schemas::{Completion, Outcome, RunToken};
use std::task::Poll;
use tokio::time::Instant;
use tracing::Span;

/// What became of a run at the first poll of its handler.
pub(crate) enum Look {
    /// It has succeeded.
    Ended,
    /// Its handler is at work, or has answered otherwise.
    Open(Job, Box<Begun>),
    /// It is not as simple as that.
    NotBegun(Job),
}

/// Runs that have succeeded, and their completions, which are to be stored.
pub(crate) struct Ended {
    runs: Vec<(Job, Success)>,
    completions: Vec<Completion>,
}

/// What is left of a run that has succeeded.
struct Success {
    ran: Ran,
    /// Its span and that of its completion, which end when that is stored.
    spans: [Span; 2],
}

impl Ended {
    /// None yet, of at most so many.
    pub(crate) fn of(most: usize) -> Self {
        Self { runs: Vec::with_capacity(most), completions: Vec::with_capacity(most) }
    }

    /// Whether none has succeeded.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

/// Whether the first run of this task can be looked at so, and is expected to end at once.
pub(crate) fn may_end_at_once(desk: &Desk, job: &Job) -> bool {
    !is_looked_up(desk, job) && desk.served.get(&job.task.task_type).is_some_and(|serving| serving.pace.ends_at_once())
}

/// Begins a run and polls its handler once; one that has succeeded is among those that have ended.
pub(crate) async fn look(desk: &Desk, job: Job, ended: &mut Ended) -> Look {
    let Some(serving) = desk.served.get(&job.task.task_type) else { return Look::NotBegun(job) };
    if !job.parcel.lease.holds() {
        return Look::NotBegun(job);
    }
    let (now, delivered) = (clock::now(), delivered(&job, serving));
    let Verdict::Begin(begin @ Begin { marking: Marking::None, .. }) = judge(&delivered, &Evidence::NONE, now) else {
        return Look::NotBegun(job);
    };
    let run =
        Run { desk, job: &job, serving, facts: Facts::of(begin, delivered.retries, RunToken::draw(), now, false) };
    let mut begun = run.begin();
    let answered = std::future::poll_fn(|cx| {
        let _entered = begun.span.enter();
        Poll::Ready(begun.work.as_mut().poll(cx))
    });
    match answered.await {
        Poll::Pending => {
            // It can be cancelled from here on.
            desk.running.begin(&begun.ctx);
            Look::Open(job, Box::new(begun))
        }
        Poll::Ready(answered) => match run.at_once(begun, answered, &mut ended.completions) {
            Ok(success) => {
                ended.runs.push((job, success));
                Look::Ended
            }
            Err(begun) => Look::Open(job, begun),
        },
    }
}

impl Run<'_> {
    /// A success is complete; all else is settled by the way of every run.
    fn at_once(
        &self,
        begun: Begun,
        answered: Answered,
        completions: &mut Vec<Completion>,
    ) -> Result<Success, Box<Begun>> {
        let reply = match answered {
            Ok(reply) if reply.output.len() <= self.output_bytes_max() => reply,
            other => return Err(Box::new(Begun { work: Box::pin(std::future::ready(other)), ..begun })),
        };
        let ran = self.ran(begun.started.elapsed(), RunEnd::Done);
        let mut completion = self.completion(Outcome::Succeeded);
        completion.body = reply.output;
        let context = trace::context_of(&begun.span);
        if !context.is_empty() {
            completion.trace = context;
        }
        let complete = begun.span.in_scope(|| complete_span(&mut completion));
        completions.push(completion);
        Ok(Success { ran, spans: [complete, begun.span] })
    }
}

/// Stores the completions of runs that have succeeded, together, and settles each; what became of their
/// handlers.
pub(crate) async fn settle_all(desk: &Desk, ended: Ended) -> Vec<(Job, Ran)> {
    let Ended { runs, completions } = ended;
    let begun = Instant::now();
    let stored = desk.completing.complete_all(completions).await;
    desk.ledger.prefetch.stored(begun.elapsed());
    let mut over = Vec::with_capacity(stored.len());
    let mut unstored = Vec::new();
    for ((job, success), stored) in runs.into_iter().zip(stored) {
        match stored {
            Stored::Unstored(completion) => unstored.push((job, success, completion)),
            Stored::Won => over.push(end(desk, job, success, None).await),
            Stored::Lost(other) => over.push(Box::pin(end(desk, job, success, Some(other))).await),
        }
    }
    if !unstored.is_empty() {
        // Boxed: rare. They are kept until there is room, or the broker is back.
        let kept = unstored.into_iter().map(|(job, success, completion)| async move {
            match desk.completing.insist(*completion).await {
                Ok(Completed::Lost(other)) => end(desk, job, success, Some(other)).await,
                Ok(Completed::Won | Completed::Full) => end(desk, job, success, None).await,
                Err(error) => {
                    settled_by(&job, Err(error)).await;
                    (job, success.ran)
                }
            }
        });
        over.extend(Box::pin(futures::future::join_all(kept)).await);
    }
    over
}

/// A run whose task has a completion, perhaps another one's, is over.
async fn end(desk: &Desk, job: Job, success: Success, other: Option<Box<Completion>>) -> (Job, Ran) {
    drop(success.spans);
    if job.task.checkpoint.is_some()
        && let Err(error) = Note::remove(&desk.bus, &job.task).await
    {
        tracing::debug!(task_id = %job.task.id, %error, "A note of a task was not removed; it goes by its age.");
    }
    let settled = match other {
        Some(other) => lost_to(desk, &job, &other).await,
        None => Ok(Settled::Ack),
    };
    settled_by(&job, settled).await;
    (job, success.ran)
}
