//! Subscriptions to completions: durable ones share their place among processes and survive restarts,
//! ephemeral ones begin now and end with the process.

use crate::client::Client;
use crate::error::Error;
use crate::task::{Task, type_name};
use futures::FutureExt;
use futures::future::BoxFuture;
use jetlane_bus::flows::{Durable, From};
use jetlane_bus::{Ack, Bus, Pulled, Puller};
use jetlane_schemas::subject::{self, STREAM_DONE};
use jetlane_schemas::{Completion, InvalidName, Outcome, QueueName, TaskType};
use std::collections::VecDeque;
use std::future::IntoFuture;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How long the server waits for an answer to a completion before it delivers it again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// The most completions that a subscriber holds unanswered.
const HELD_MAX: i64 = 1_000;
/// The most completions that one process reads ahead.
const AHEAD_MAX: usize = 256;
/// How many it reads ahead before it is known how long the subscriber takes for one.
const AHEAD_AT_FIRST: usize = 16;
/// Completions are read ahead for about this time of the subscriber's work.
const AHEAD_TIME: Duration = Duration::from_secs(5);
/// How often completions that wait are extended in one ack wait: two may be lost.
const EXTENSIONS_AN_ACK_WAIT: u32 = 3;
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
    ack_wait: Duration,
    invalid: Option<InvalidName>,
}

impl Completions {
    pub(crate) fn new(client: Client) -> Self {
        let (types, outcomes) = (Vec::new(), Vec::new());
        Self { client, types, outcomes, durable: None, from: From::Now, ack_wait: ACK_WAIT, invalid: None }
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

    /// Everything that is kept, not only what comes from now on. For a durable one, when it is new: one that is
    /// there goes on where it was.
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
            ack_wait: self.ack_wait,
            held_max: HELD_MAX,
            forgotten_after,
        };
        let failed = |source| Error::Subscribe { name: name.clone(), source };
        let bus = self.client.bus();
        bus.ensure_durable(STREAM_DONE, &durable).await.map_err(failed)?;
        let puller = bus.puller(STREAM_DONE, &name).await.map_err(failed)?;
        let (bus, outcomes, waiting) = (bus.clone(), self.outcomes, VecDeque::new());
        let reader = Reader { bus, durable, outcomes, puller, waiting, pace: None, given_at: None };
        let (requests, requested) = mpsc::channel(1);
        tokio::spawn(reader.run(requested));
        Ok(Subscribed { requests, requested: None })
    }
}

impl IntoFuture for Completions {
    type Output = Result<Subscribed, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.subscribe().boxed()
    }
}

/// A subscription to completions. What it has read ahead goes back to the broker when it is dropped.
#[derive(Debug)]
pub struct Subscribed {
    requests: mpsc::Sender<Request>,
    /// A request that is not answered yet: kept, so that a dropped wait loses nothing.
    requested: Option<oneshot::Receiver<Result<Received, Error>>>,
}

type Request = oneshot::Sender<Result<Received, Error>>;

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
        if self.requested.is_none() {
            let (request, answer) = oneshot::channel();
            self.requests.send(request).await.ok()?;
            self.requested = Some(answer);
        }
        let answer = self.requested.as_mut()?.await.ok();
        self.requested = None;
        answer
    }
}

/// Reads completions ahead of their subscriber, and extends those that wait for it: a slow subscriber gets none
/// twice for having read it early.
struct Reader {
    bus: Bus,
    durable: Durable,
    outcomes: Vec<Outcome>,
    puller: Puller,
    waiting: VecDeque<Received>,
    /// The mean time from one completion to the request of the next, once known.
    pace: Option<Duration>,
    given_at: Option<Instant>,
}

/// What ends a reader.
enum Ended {
    Dropped,
    Closed,
}

impl Reader {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        if let Ended::Closed = self.serve(&mut requests).await {
            return;
        }
        // Unanswered, it would come again only after the ack wait: what waits, and what is on its way.
        let on_their_way = self.puller.end().await.into_iter().map(|delivery| delivery.ack);
        for ack in self.waiting.into_iter().map(|received| received.ack).chain(on_their_way) {
            let _closed = ack.give_back(Duration::ZERO).await;
        }
    }

    async fn serve(&mut self, requests: &mut mpsc::Receiver<Request>) -> Ended {
        let every = self.durable.ack_wait / EXTENSIONS_AN_ACK_WAIT;
        let mut extend = tokio::time::interval_at(Instant::now() + every, every);
        let (mut request, mut fault) = (None, None);
        loop {
            request = self.answer(request, &mut fault);
            if let Err(source) = self.read_ahead().await {
                fault = Some(source);
            }
            tokio::select! {
                next = requests.recv(), if request.is_none() => match next {
                    Some(next) => {
                        self.measure();
                        request = Some(next);
                    }
                    None => return Ended::Dropped,
                },
                pulled = self.puller.next() => match self.take(pulled).await {
                    Ok(Some(ended)) => return ended,
                    Ok(None) => {}
                    Err(source) => fault = Some(source),
                },
                _ = extend.tick() => {
                    for received in &self.waiting {
                        if let Err(error) = received.ack.hold().await {
                            tracing::debug!(%error, "A completion that waits could not be extended; it comes again.");
                        }
                    }
                }
            }
        }
    }

    /// Answers a request with a fault or the completion that has waited longest; returns it where there is neither.
    fn answer(&mut self, request: Option<Request>, fault: &mut Option<jetlane_bus::Error>) -> Option<Request> {
        let request = request?;
        if let Some(source) = fault.take() {
            let _gone = request.send(Err(Error::Subscribe { name: self.durable.name.clone(), source }));
            return None;
        }
        let Some(received) = self.waiting.pop_front() else { return Some(request) };
        match request.send(Ok(received)) {
            Ok(()) => self.given_at = Some(Instant::now()),
            Err(Ok(received)) => self.waiting.push_front(received),
            Err(Err(_)) => {}
        }
        None
    }

    /// Notes how long the subscriber took for the last completion.
    fn measure(&mut self) {
        let Some(given_at) = self.given_at.take() else { return };
        let took = given_at.elapsed();
        self.pace = Some(self.pace.map_or(took, |pace| (pace * 7 + took) / 8));
    }

    /// How many completions to hold: what the subscriber gets done in a while. The rest is for its siblings.
    fn ahead(&self) -> usize {
        match self.pace {
            None => AHEAD_AT_FIRST,
            Some(pace) => {
                let fit = AHEAD_TIME.as_nanos() / pace.as_nanos().max(1);
                usize::try_from(fit).unwrap_or(AHEAD_MAX).clamp(1, AHEAD_MAX)
            }
        }
    }

    async fn read_ahead(&mut self) -> Result<(), jetlane_bus::Error> {
        let ahead = self.ahead();
        let missing = ahead.saturating_sub(self.puller.outstanding() + self.waiting.len());
        if missing > ahead / 2 { self.puller.ask(missing, None).await } else { Ok(()) }
    }

    async fn take(&mut self, pulled: Pulled) -> Result<Option<Ended>, jetlane_bus::Error> {
        match pulled {
            Pulled::Delivery(delivery) => {
                let headers = delivery.headers();
                match Completion::from_message(&delivery.subject, &headers, &delivery.body) {
                    Ok(completion) if self.outcomes.is_empty() || self.outcomes.contains(&completion.outcome) => {
                        self.waiting.push_back(Received { completion, ack: delivery.ack });
                    }
                    Ok(_) => delivery.ack.settle().await?,
                    Err(error) => {
                        tracing::warn!(%error, "A completion cannot be read; it is passed over.");
                        delivery.ack.settle().await?;
                    }
                }
            }
            Pulled::Room => {}
            Pulled::Refused(reason) => {
                tracing::debug!(reason, "A pull of completions was refused.");
                tokio::time::sleep(jetlane_bus::pull::REFUSED_PAUSE).await;
            }
            Pulled::Gone => self.bus.ensure_durable(STREAM_DONE, &self.durable).await?,
            Pulled::Closed => return Ok(Some(Ended::Closed)),
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_bus::clock;
    use jetlane_bus::local::{self, Options, Server};
    use jetlane_bus::topology::Settings;
    use jetlane_schemas::{RunToken, TaskEvent, TaskId};

    async fn place() -> (Server, Client) {
        let binary = local::find(|line| eprintln!("{line}")).await.expect("a nats-server");
        let server = Server::start(&binary, Options::default()).await.expect("started");
        let client = Client::connect(server.url()).await.expect("connected");
        client.bus().ensure(&Settings::default()).await.expect("the streams are made");
        (server, client)
    }

    async fn complete(client: &Client, count: usize) {
        for _ in 0..count {
            let task_type = TaskType::new("a.b").expect("valid");
            let task = TaskEvent::new(TaskId::generate(), task_type, QueueName::default_queue(), clock::now(), vec![]);
            let completion = Completion::of(&task, Outcome::Succeeded, clock::now());
            let completion = Completion { token: Some(RunToken::draw()), ..completion };
            client.bus().complete(&completion).await.expect("stored");
        }
    }

    #[tokio::test]
    async fn a_slow_subscriber_gets_each_completion_once() {
        const COMPLETIONS: usize = 12;
        let (_server, client) = place().await;
        complete(&client, COMPLETIONS).await;
        let mut subscription = client.completions().durable("slow").from_the_beginning();
        subscription.ack_wait = Duration::from_secs(1);
        let mut subscribed = subscription.await.expect("subscribed");
        let mut seen = std::collections::HashSet::new();
        for _ in 0..COMPLETIONS {
            let received = subscribed.next().await.expect("open").expect("read");
            assert!(seen.insert(received.completion.id.clone()), "{} came twice", received.completion.id);
            // The subscriber's work: all of it together takes several ack waits.
            tokio::time::sleep(Duration::from_millis(300)).await;
            received.ack().await.expect("sent");
        }
        let more = tokio::time::timeout(Duration::from_millis(1_500), subscribed.next()).await;
        assert!(more.is_err(), "one came a second time");
    }

    #[tokio::test]
    async fn a_subscriber_that_goes_leaves_what_it_read_ahead_to_the_next() {
        let (_server, client) = place().await;
        complete(&client, 5).await;
        let mut first = client.completions().durable("billing").from_the_beginning().await.expect("subscribed");
        let received = first.next().await.expect("open").expect("read");
        received.ack().await.expect("sent");
        drop(first);
        let mut second = client.completions().durable("billing").await.expect("the start counts when it is new");
        for _ in 0..4 {
            let next = tokio::time::timeout(Duration::from_secs(10), second.next()).await;
            next.expect("it comes before its ack wait is over")
                .expect("open")
                .expect("read")
                .ack()
                .await
                .expect("sent");
        }
    }

    #[tokio::test]
    async fn a_durable_subscriber_goes_on_where_it_was_whatever_start_it_names() {
        let (_server, client) = place().await;
        let first = client.completions().durable("billing").await.expect("subscribed");
        drop(first);
        complete(&client, 2).await;
        for _ in 0..2 {
            let again = client.completions().durable("billing").from_the_beginning();
            let mut again = again.of_type(TaskType::new("a.b")).await.expect("subscribed again");
            let received = tokio::time::timeout(Duration::from_secs(10), again.next()).await.expect("in time");
            received.expect("open").expect("read").ack().await.expect("sent");
        }
    }
}
