//! Subscriptions to completions: durable ones share their place among processes and survive restarts,
//! ephemeral ones begin now and end with the process.

use crate::client::Client;
use crate::error::Error;
use crate::task::{Task, type_name};
use futures::FutureExt;
use futures::future::BoxFuture;
use jetlane_bus::flows::{Durable, From};
use jetlane_bus::{Ack, Pulled, Puller};
use jetlane_schemas::subject::{self, STREAM_DONE};
use jetlane_schemas::{Completion, InvalidName, Outcome, QueueName, TaskType};
use std::future::IntoFuture;
use std::time::Duration;

/// How long the server waits for an answer to a completion before it delivers it again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// The most completions that a subscriber holds unanswered.
const HELD_MAX: i64 = 1_000;
/// The most completions that one process asks for ahead.
const AHEAD: usize = 256;
/// How long the server remembers an ephemeral subscriber that is gone.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// A subscription to make: set what it wants, then await it.
#[must_use = "nothing is subscribed until it is awaited"]
#[derive(Debug)]
pub struct Completions {
    client: Client,
    types: Vec<TaskType>,
    outcomes: Vec<Outcome>,
    durable: Option<String>,
    from: From,
    invalid: Option<InvalidName>,
}

impl Completions {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, types: Vec::new(), outcomes: Vec::new(), durable: None, from: From::Now, invalid: None }
    }

    /// Only of this type; may be called more than once.
    pub fn of<T: Task>(self) -> Self {
        self.of_type(type_name::<T>())
    }

    /// Only of this type, by name; may be called more than once.
    pub fn of_type(mut self, task_type: Result<TaskType, InvalidName>) -> Self {
        match task_type {
            Ok(task_type) => self.types.push(task_type),
            Err(error) => self.invalid = Some(error),
        }
        self
    }

    /// Only with this outcome; may be called more than once.
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcomes.push(outcome);
        self
    }

    /// Under a name that keeps its place: processes of the same name share the completions.
    pub fn durable(mut self, name: impl Into<String>) -> Self {
        self.durable = Some(name.into());
        self
    }

    /// Everything that is kept, not only what comes from now on. For a durable one, when it is new.
    pub fn from_the_beginning(mut self) -> Self {
        self.from = From::Beginning;
        self
    }

    async fn subscribe(self) -> Result<Subscribed, Error> {
        if let Some(error) = self.invalid {
            return Err(error.into());
        }
        let (name, forgotten_after) = match self.durable {
            // The same rule as for queues: it becomes part of a subject.
            Some(name) => (QueueName::new(name)?.to_string(), None),
            None => (format!("ephemeral-{}", jetlane_schemas::TaskId::generate()), Some(FORGOTTEN_AFTER)),
        };
        let durable = Durable {
            name: name.clone(),
            filters: self.types.iter().map(subject::done_of_type).collect(),
            from: self.from,
            ack_wait: ACK_WAIT,
            held_max: HELD_MAX,
            forgotten_after,
        };
        let failed = |source| Error::Subscribe { name: name.clone(), source };
        let bus = self.client.bus();
        bus.ensure_durable(STREAM_DONE, &durable).await.map_err(failed)?;
        let puller = bus.puller(STREAM_DONE, &name).await.map_err(failed)?;
        Ok(Subscribed { client: self.client, durable, outcomes: self.outcomes, puller })
    }
}

impl IntoFuture for Completions {
    type Output = Result<Subscribed, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.subscribe().boxed()
    }
}

/// A subscription to completions.
#[derive(Debug)]
pub struct Subscribed {
    client: Client,
    durable: Durable,
    outcomes: Vec<Outcome>,
    puller: Puller,
}

/// A completion that a subscriber answers.
#[derive(Debug)]
pub struct Received {
    /// The completion.
    pub completion: Completion,
    ack: Ack,
}

impl Received {
    /// It is dealt with. Unanswered, it comes again after 30 seconds.
    ///
    /// # Errors
    /// [`Error::Subscribe`] when the connection is closed.
    pub async fn ack(self) -> Result<(), Error> {
        let name = self.completion.id.to_string();
        self.ack.settle().await.map_err(|source| Error::Subscribe { name, source })
    }

    /// It is to come again after this long.
    ///
    /// # Errors
    /// [`Error::Subscribe`] when the connection is closed.
    pub async fn again_after(self, delay: Duration) -> Result<(), Error> {
        let name = self.completion.id.to_string();
        self.ack.give_back(delay).await.map_err(|source| Error::Subscribe { name, source })
    }

    /// It is still being dealt with: the server waits another 30 seconds.
    ///
    /// # Errors
    /// [`Error::Subscribe`] when the connection is closed.
    pub async fn still_at_it(&self) -> Result<(), Error> {
        let name = self.completion.id.to_string();
        self.ack.hold().await.map_err(|source| Error::Subscribe { name, source })
    }
}

impl Subscribed {
    /// The next completion; `None` once the connection is closed for good. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Subscribe`] when the subscription can be neither used nor made again.
    pub async fn next(&mut self) -> Option<Result<Received, Error>> {
        loop {
            let missing = AHEAD.saturating_sub(self.puller.outstanding());
            if missing > AHEAD / 2
                && let Err(source) = self.puller.ask(missing, None).await
            {
                return Some(Err(self.failed(source)));
            }
            match self.puller.next().await {
                Pulled::Delivery(delivery) => {
                    let headers = delivery.headers();
                    match Completion::from_message(&delivery.subject, &headers, &delivery.body) {
                        Ok(completion) if self.wants(&completion) => {
                            return Some(Ok(Received { completion, ack: delivery.ack }));
                        }
                        Ok(_) => {}
                        Err(error) => tracing::warn!(%error, "A completion cannot be read; it is passed over."),
                    }
                    if let Err(source) = delivery.ack.settle().await {
                        return Some(Err(self.failed(source)));
                    }
                }
                Pulled::Room => {}
                Pulled::Refused(reason) => {
                    tracing::debug!(reason, "A pull of completions was refused.");
                    tokio::time::sleep(jetlane_bus::pull::REFUSED_PAUSE).await;
                }
                Pulled::Gone => {
                    if let Err(source) = self.client.bus().ensure_durable(STREAM_DONE, &self.durable).await {
                        return Some(Err(self.failed(source)));
                    }
                }
                Pulled::Closed => return None,
            }
        }
    }

    fn wants(&self, completion: &Completion) -> bool {
        self.outcomes.is_empty() || self.outcomes.contains(&completion.outcome)
    }

    fn failed(&self, source: jetlane_bus::Error) -> Error {
        Error::Subscribe { name: self.durable.name.clone(), source }
    }
}
