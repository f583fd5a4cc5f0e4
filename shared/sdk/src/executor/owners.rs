//! Owners of runs that were delivered again. An executor asks the others of its queue before it begins such a
//! run, and answers for those that it runs itself: it takes the delivery over, and its handler goes on
//! (design, decision 19).

use super::lease::Holding;
use super::mark::{Found, Unbegun, Word};
use super::parcel::{Job, Parcel};
use super::running::Running;
use jetlane_bus::clock::Boottime;
use jetlane_bus::inquire::Reply;
use jetlane_bus::{Bus, Error, Message, Subscription};
use jetlane_core::run::{Custody, Hold, Owner};
use jetlane_schemas::inquiry::{BeginMark, InquiredRun, Inquiry, InquiryReply};
use jetlane_schemas::subject::{self, STREAM_LANES};
use jetlane_schemas::{Headers, Micros, QueueName, TaskEvent, TaskRef};
use std::sync::Arc;
use std::time::Duration;

/// How long an executor waits for whoever runs a task that was delivered to it again. The most that a task of a dead
/// executor waits beyond its lease.
pub(crate) const ASK_WITHIN: Duration = Duration::from_millis(800);
/// The same where no lease has run out, such as after a consumer was made anew: nobody waits for a dead executor, and
/// its owner may be slow to answer.
pub(crate) const ASK_STALE_WITHIN: Duration = Duration::from_secs(2);
/// How often lapsed leases are tried to be won back.
const WIN_BACK_EVERY: Duration = Duration::from_secs(1);
/// Lapsed leases that are tried at once.
const WIN_BACK_IN_FLIGHT: usize = 64;

/// The runs of this executor, and the way to ask the others.
pub(crate) struct Owners {
    bus: Bus,
    queue: QueueName,
    executor: String,
    holding: Arc<Holding>,
    running: Arc<Running>,
    unbegun: Arc<Unbegun>,
}

impl Owners {
    pub(crate) fn new(
        bus: Bus,
        queue: QueueName,
        executor: String,
        holding: Arc<Holding>,
        running: Arc<Running>,
        unbegun: Arc<Unbegun>,
    ) -> Self {
        Self { bus, queue, executor, holding, running, unbegun }
    }

    /// The id of this executor.
    pub(crate) fn executor(&self) -> &str {
        &self.executor
    }

    /// Subscribes to the questions of other executors.
    ///
    /// # Errors
    /// [`Error::Subscribe`].
    pub(crate) async fn listen(&self) -> Result<[Subscription; 2], Error> {
        let everybody = self.bus.subscribe(&subject::owner(&self.queue)).await?;
        let this = self.bus.subscribe(&subject::owner_of(&self.queue, &self.executor)).await?;
        Ok([everybody, this])
    }

    /// Answers other executors. To what is asked of everybody only who runs the task replies.
    pub(crate) async fn answer(self: Arc<Self>, [mut everybody, mut this]: [Subscription; 2]) {
        loop {
            let (message, is_asked_alone) = tokio::select! {
                message = everybody.next() => (message, false),
                message = this.next() => (message, true),
            };
            let Some(Message { reply, body, .. }) = message else { return };
            let Some(reply) = reply else { continue };
            let said = match serde_json::from_slice::<Inquiry>(&body) {
                Ok(inquiry) if inquiry.executor != self.executor => self.reply(&inquiry),
                Ok(_) => InquiryReply::Unheld,
                Err(error) => {
                    tracing::debug!(%error, "The question of another executor cannot be read.");
                    InquiryReply::Unheld
                }
            };
            if said == InquiryReply::Unheld && !is_asked_alone {
                continue;
            }
            let answer = serde_json::to_vec(&said).expect("a word is JSON");
            if let Err(error) = self.bus.send(reply, Headers::new(), answer.into()).await {
                tracing::debug!(%error, "Another executor was not answered.");
            }
        }
    }

    /// What this executor says to a question.
    fn reply(&self, inquiry: &Inquiry) -> InquiryReply {
        if inquiry.ack.is_empty() {
            // A dispatcher asks before it ends tasks: there is no delivery to take over.
            let runs = |run| {
                self.running.newest(&identity_of(run)).is_some_and(|ctx| ctx.parcel().lease.state() != Hold::Lost)
            };
            return if inquiry.runs.iter().any(runs) { InquiryReply::Running } else { InquiryReply::Unheld };
        }
        let Some(ack) = self.bus.ack_of(STREAM_LANES, inquiry.sequence, &inquiry.ack) else {
            return InquiryReply::Unheld;
        };
        let key = (inquiry.sequence, inquiry.stored_at.0);
        // Who has begun asks to go on: it goes to whoever began last, since that one had asked before.
        if let Some(theirs) = inquiry.runs.iter().find(|run| run.started_at.is_some()) {
            return match self.running.newest(&identity_of(theirs)) {
                Some(ctx)
                    if ctx.run() == theirs.run
                        && ctx.parcel().lease.state() != Hold::Lost
                        && (Some(ctx.started_at()), self.executor.as_str())
                            > (theirs.started_at, inquiry.executor.as_str()) =>
                {
                    InquiryReply::Adopted
                }
                Some(ctx) if ctx.run() > theirs.run => InquiryReply::Superseded,
                Some(_) | None => InquiryReply::Unheld,
            };
        }
        if self.holding.adopt(key, ack.clone(), inquiry.delivered, Boottime::now()) == Custody::Held {
            tracing::info!(queue = %self.queue, "A message in hand was delivered to another executor; it goes on here.");
            return InquiryReply::Adopted;
        }
        let [run] = inquiry.runs.as_slice() else { return InquiryReply::Unheld };
        match (self.reply_for_run(run, |parcel| parcel.lease.attach(ack.clone())), inquiry.mark) {
            (InquiryReply::Unheld, Some(mark)) => match self.unbegun.says(mark) {
                Word::Undecided => InquiryReply::Adopted,
                Word::NeverBegan => InquiryReply::Unbegun,
                Word::Stands => InquiryReply::Unheld,
            },
            (reply, _) => reply,
        }
    }

    /// What this executor says of a run that came by another message than its own.
    fn reply_for_run(&self, run: &InquiredRun, attach: impl FnOnce(&Parcel)) -> InquiryReply {
        let Some(ctx) = self.running.newest(&identity_of(run)) else { return InquiryReply::Unheld };
        if ctx.parcel().lease.state() == Hold::Lost {
            return InquiryReply::Unheld;
        }
        match ctx.run().cmp(&run.run) {
            std::cmp::Ordering::Equal => {
                attach(ctx.parcel());
                InquiryReply::Adopted
            }
            std::cmp::Ordering::Greater => InquiryReply::Superseded,
            // A copy that was handed back before this one began.
            std::cmp::Ordering::Less if ctx.is_once() => InquiryReply::Adopted,
            std::cmp::Ordering::Less => {
                // A later run exists: this one's lease was lost to whoever stored that.
                ctx.parcel().lose();
                InquiryReply::Unheld
            }
        }
    }

    /// Whether a run of the task is under way here already, by another message.
    pub(crate) fn reply_here(&self, job: &Job) -> InquiryReply {
        match self.running.newest(&job.task.identity()) {
            Some(ctx) if ctx.is_of(&job.task) => InquiryReply::Unheld,
            Some(_) => {
                let (ack, _) = job.parcel.lease.acks();
                self.reply_for_run(&inquired(&job.task), |parcel| parcel.lease.attach(ack))
            }
            None => InquiryReply::Unheld,
        }
    }

    /// Whether the same run of the task is under way here already, by another message: it settles this one too. Costs no
    /// request. An earlier run that is about to end here does not count.
    pub(crate) fn adopt_here(&self, job: &Job) -> bool {
        let Some(ctx) = self.running.newest(&job.task.identity()) else { return false };
        if ctx.is_of(&job.task) || ctx.run() != job.task.run || ctx.parcel().lease.state() == Hold::Lost {
            return false;
        }
        let (ack, _) = job.parcel.lease.acks();
        ctx.parcel().lease.attach(ack);
        true
    }

    /// Asks all executors of the queue who runs these tasks of a message; `None` where nobody says so.
    ///
    /// # Errors
    /// [`Error::Send`].
    pub(crate) async fn ask(&self, inquiry: &Inquiry) -> Result<Option<InquiryReply>, Error> {
        let question = serde_json::to_vec(inquiry).expect("text and numbers are JSON");
        let within = if inquiry.delivered > 1 { ASK_WITHIN } else { ASK_STALE_WITHIN };
        match self.bus.inquire(&subject::owner(&self.queue), question.into(), within).await? {
            Reply::Answer(answer) => {
                Ok(serde_json::from_slice(&answer).ok().filter(|reply: &InquiryReply| *reply != InquiryReply::Unheld))
            }
            Reply::Silent | Reply::Nobody => Ok(None),
        }
    }

    /// Asks the executor that stored the mark of a run.
    ///
    /// # Errors
    /// [`Error::Send`].
    pub(crate) async fn ask_owner(&self, job: &Job, found: &Found, inquiry: &Inquiry) -> Result<Owner, Error> {
        let BeginMark { executor, token, .. } = &found.mark;
        if *executor == self.executor {
            return Ok(match (self.reply_here(job), self.unbegun.says(*token)) {
                (InquiryReply::Unheld, Word::NeverBegan) => Owner::NeverBegan,
                (InquiryReply::Unheld, Word::Stands) => Owner::Disowns,
                _ => Owner::Runs,
            });
        }
        let inquiry = Inquiry { mark: Some(*token), ..inquiry.clone() };
        let question = serde_json::to_vec(&inquiry).expect("text and numbers are JSON");
        let owner = subject::owner_of(&self.queue, executor);
        Ok(match self.bus.inquire(&owner, question.into(), ASK_WITHIN).await? {
            Reply::Answer(answer) => match serde_json::from_slice(&answer) {
                Ok(InquiryReply::Adopted | InquiryReply::Superseded | InquiryReply::Running) => Owner::Runs,
                Ok(InquiryReply::Unbegun) => Owner::NeverBegan,
                Ok(InquiryReply::Unheld) | Err(_) => Owner::Disowns,
            },
            Reply::Silent => Owner::Silent,
            Reply::Nobody => Owner::Gone,
        })
    }

    /// The question for a job that has not begun here.
    pub(crate) fn inquiry(&self, parcel: &Parcel, runs: Vec<InquiredRun>) -> Inquiry {
        let (sequence, stored_at) = parcel.key;
        Inquiry {
            executor: self.executor.clone(),
            sequence,
            stored_at: Micros(stored_at),
            delivered: parcel.lease.delivered(),
            ack: parcel.lease.ack_subject(),
            runs,
            mark: None,
        }
    }

    /// Whether what this executor sends comes back to it.
    pub(crate) async fn round_trip(&self) -> bool {
        let subject = subject::owner_of(&self.queue, &self.executor);
        matches!(self.bus.inquire(&subject, bytes::Bytes::new(), ASK_WITHIN).await, Ok(Reply::Answer(_)))
    }

    /// Wins lapsed leases back, again and again, where nobody else runs the tasks.
    pub(crate) async fn keep(self: Arc<Self>) {
        use futures::StreamExt;
        let mut every = tokio::time::interval(WIN_BACK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            futures::stream::iter(self.running.lapsed())
                .for_each_concurrent(WIN_BACK_IN_FLIGHT, |(parcel, runs)| self.win_back(parcel, runs))
                .await;
        }
    }

    async fn win_back(&self, parcel: Arc<Parcel>, runs: Vec<InquiredRun>) {
        let connection = *self.bus.connections().borrow();
        let sent = Boottime::now();
        let inquiry = self.inquiry(&parcel, runs);
        match self.ask(&inquiry).await {
            Ok(None) => {}
            Ok(Some(_)) => {
                tracing::info!(queue = %self.queue, "Another executor runs what ran here; it stops here.");
                parcel.lose();
                return;
            }
            Err(_) => return,
        }
        // The question was heard only where the connection has been the same since.
        if parcel.lease.sign().await && *self.bus.connections().borrow() == connection {
            parcel.lease.win_back(sent);
            tracing::info!(queue = %self.queue, "The lease of a run is won back; nobody else runs its task.");
        }
    }
}

/// A run as it is asked for before it begins.
pub(crate) fn inquired(task: &TaskEvent) -> InquiredRun {
    InquiredRun { task_type: task.task_type.clone(), id: task.id.clone(), run: task.run, started_at: None }
}

fn identity_of(run: &InquiredRun) -> TaskRef {
    TaskRef { task_type: run.task_type.clone(), id: run.id.clone() }
}
