//! The handle of a task: the promise of its outcome.

use crate::client::Client;
use crate::error::Error;
use crate::listening::Listener;
use crate::submit::Accepted;
use futures::FutureExt;
use futures::future::BoxFuture;
use jetlane_bus::done::Completed;
use jetlane_bus::{Subscription, clock};
use jetlane_schemas::frame::Progress;
use jetlane_schemas::subject::{self, BUCKET_NOTES};
use jetlane_schemas::{
    Completion, Failure, Headers, Micros, Outcome, Priority, RunToken, TaskId, TaskType, Tenant, TraceContext,
};
use serde::de::DeserializeOwned;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

/// A task that was accepted. Await it for the output; dropping it cancels nothing.
#[derive(Debug)]
pub struct TaskHandle<O> {
    client: Client,
    task_type: TaskType,
    id: TaskId,
    accepted: Option<Accepted>,
    /// What DONE has of its id under this sequence or before is an earlier task's.
    done_sequence: u64,
    listener: Option<Listener>,
    output: PhantomData<fn() -> O>,
}

impl<O> TaskHandle<O> {
    pub(crate) fn submitted(
        client: Client,
        task_type: TaskType,
        id: TaskId,
        accepted: Accepted,
        listener: Listener,
    ) -> Self {
        // A duplicate may have completed before anybody listened.
        let listener = (!accepted.duplicate).then_some(listener);
        Self { client, task_type, id, accepted: Some(accepted), done_sequence: 0, listener, output: PhantomData }
    }

    /// What DONE has of the task's id under this sequence or before is an earlier task's.
    pub(crate) fn later_than(self, done_sequence: u64) -> Self {
        Self { done_sequence, ..self }
    }

    pub(crate) fn attached(client: Client, task_type: TaskType, id: TaskId) -> Self {
        Self { client, task_type, id, accepted: None, done_sequence: 0, listener: None, output: PhantomData }
    }

    /// The task's id: all that another process needs to wait for it.
    pub fn id(&self) -> &TaskId {
        &self.id
    }

    /// What the broker said to the submission; `None` for a handle that was attached by id.
    pub fn accepted(&self) -> Option<Accepted> {
        self.accepted
    }

    /// Waits for the completion, whatever the outcome.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Subscribe`], [`Error::Closed`].
    pub async fn completion(&mut self) -> Result<Completion, Error> {
        // Not on the way of most: a future is as large as its largest part.
        if self.listener.is_none()
            && let Some(completion) = Box::pin(self.look_and_listen()).await?
        {
            return Ok(completion);
        }
        let told = match &mut self.listener {
            Some(listener) => listener.completion().await,
            None => None,
        };
        // Told once: whoever asks again reads it.
        self.listener = None;
        told.ok_or_else(|| Error::Closed { id: self.id.clone() })
    }

    /// Reads the completion; listens for it where there is none yet.
    async fn look_and_listen(&mut self) -> Result<Option<Completion>, Error> {
        let listener = self.client.listening().expect(&self.task_type, &self.id, self.done_sequence).await?;
        let completion = self.look().await?;
        if completion.is_none() {
            self.listener = Some(listener);
        }
        Ok(completion)
    }

    /// Reads the completion if there is one already.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn look(&self) -> Result<Option<Completion>, Error> {
        let read = self.client.bus().read_done_after(&self.task_type, &self.id, self.done_sequence).await;
        read.map_err(|source| Error::Read { id: self.id.clone(), source })
    }

    /// Cancels the task: the stored `cancelled` completion decides it. Returns how it ended, which is
    /// otherwise if it had completed before. Its callbacks follow once its message is found: at once where it is
    /// delayed, runs, or is about to; behind a backlog when the dispatcher reads it. After an error it may be called again: all of it is repeated.
    ///
    /// # Errors
    /// [`Error::Cancel`].
    pub async fn cancel(&self) -> Result<Outcome, Error> {
        let failed = |source| Error::Cancel { id: self.id.clone(), source };
        let bus = self.client.bus();
        let own = self.cancelled();
        let done = match bus.complete(&own).await.map_err(failed)? {
            Completed::Lost(other) if other.outcome != Outcome::Cancelled => return Ok(other.outcome),
            Completed::Full => {
                let source = "the stream is full: raise its limits, or let completions age sooner".into();
                return Err(failed(jetlane_bus::Error::Refused { subject: subject::STREAM_DONE.into(), source }));
            }
            // An earlier cancel may have been cut short after its completion was stored: the rest is repeated.
            Completed::Lost(other) => *other,
            Completed::Won => own,
        };
        // Decided. What follows spares work: dispatchers drop it, a running handler stops, a schedule goes.
        let note = async {
            bus.bucket(BUCKET_NOTES).await?.put(&subject::note_cancelled(&self.task_type, &self.id), &true).await
        };
        note.await.map_err(failed)?;
        bus.send(subject::cancel(&self.task_type, &self.id), Headers::new(), Vec::new().into())
            .await
            .map_err(failed)?;
        bus.end_schedule(&done).await.map_err(failed)?;
        Ok(Outcome::Cancelled)
    }

    fn cancelled(&self) -> Completion {
        Completion {
            id: self.id.clone(),
            task_type: self.task_type.clone(),
            queue: self.client.registry().queue_of(&self.task_type),
            outcome: Outcome::Cancelled,
            attempt: 0,
            run: 0,
            token: Some(RunToken::draw()),
            tenant: Tenant::default(),
            priority: Priority::default(),
            submitted_at: Micros::default(),
            finished_at: clock::now(),
            wait_ms: 0.0,
            run_ms: 0.0,
            late: false,
            cut: false,
            parent: None,
            callbacks: Vec::new(),
            // A task with a key and no id of its own is named by its key.
            baggage: None,
            claim: self.id.is_of_key().then(|| self.id.clone()),
            trace: TraceContext::default(),
            codec: jetlane_schemas::PayloadCodec::Json,
            body: Vec::new(),
        }
        .with_failure(Failure::new("cancelled", "cancelled by a client"))
    }

    /// Listens to the task's progress: what its handler reports from now on.
    ///
    /// # Errors
    /// [`Error::Subscribe`].
    pub async fn progress(&self) -> Result<ProgressReports, Error> {
        let subject = subject::progress(&self.task_type, &self.id);
        let subscribed = self.client.bus().subscribe(&subject).await;
        let reports = subscribed.map_err(|source| Error::Subscribe { name: subject, source })?;
        Ok(ProgressReports { reports })
    }
}

/// What a handler reports of its progress.
#[derive(Debug)]
pub struct ProgressReports {
    reports: Subscription,
}

impl ProgressReports {
    /// The next report; `None` once the connection is closed for good.
    pub async fn next(&mut self) -> Option<Progress> {
        loop {
            let message = self.reports.next().await?;
            match Progress::decode(&message.body) {
                Ok(progress) => return Some(progress),
                Err(error) => tracing::debug!(%error, "A report of progress cannot be read."),
            }
        }
    }
}

impl<O: DeserializeOwned + Send + 'static> TaskHandle<O> {
    /// Waits for the output no longer than this.
    ///
    /// # Errors
    /// [`Error::Waited`], and as for awaiting the handle.
    pub async fn within(self, limit: Duration) -> Result<O, Error> {
        let id = self.id.clone();
        match tokio::time::timeout(limit, self.into_future()).await {
            Ok(output) => output,
            Err(_) => Err(Error::Waited { id, waited_ms: limit.as_millis() }),
        }
    }
}

impl<O: DeserializeOwned + Send + 'static> IntoFuture for TaskHandle<O> {
    type Output = Result<O, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(mut self) -> Self::IntoFuture {
        async move {
            let completion = self.completion().await?;
            if completion.outcome != Outcome::Succeeded {
                return Err(Error::Task(Box::new(completion)));
            }
            crate::json::read(&completion.body)
                .map_err(|error| Error::Output { id: completion.id, reason: error.to_string() })
        }
        .boxed()
    }
}
