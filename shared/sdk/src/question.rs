//! Asking the leader of a queue: why a task waits, and when one would start.

use crate::error::Error;
use jetlane_bus::Bus;
use jetlane_schemas::question::{Answer, Expectation, Question};
use jetlane_schemas::{QueueName, subject};
use std::time::Duration;
use tokio::time::Instant;

/// How long an answer may take. A change of leaders is shorter.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long nobody listens before the question is put again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Asks the leader of a queue.
///
/// # Errors
/// [`Error::Unanswered`], [`Error::Ask`], [`Error::Answer`].
pub(crate) async fn ask(bus: &Bus, queue: &QueueName, question: &Question) -> Result<Answer, Error> {
    match put(bus, queue, question).await? {
        Answer::Refused { reason } => Err(Error::Answer { queue: queue.clone(), reason }),
        answer => Ok(answer),
    }
}

/// Puts a question; a refusal is an answer.
async fn put(bus: &Bus, queue: &QueueName, question: &Question) -> Result<Answer, Error> {
    let subject = subject::ask(queue);
    let body: bytes::Bytes =
        serde_json::to_vec(question).expect("a question holds nothing but text and numbers").into();
    let end = Instant::now() + ANSWER_TIMEOUT;
    let answer = loop {
        let left = end.saturating_duration_since(Instant::now());
        let asked = bus.ask(&subject, body.clone(), left).await;
        if let Some(answer) = asked.map_err(|source| Error::Ask { queue: queue.clone(), source })? {
            break answer;
        }
        if Instant::now() + ASK_AGAIN_AFTER >= end {
            return Err(Error::Unanswered { queue: queue.clone(), waited: ANSWER_TIMEOUT });
        }
        // Nobody listens: the broker says so at once, and a new leader may be on its way.
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    };
    serde_json::from_slice(&answer)
        .map_err(|error| Error::Answer { queue: queue.clone(), reason: format!("it is no such JSON: {error}") })
}

/// Asks when such a task would start.
pub(crate) async fn expect(bus: &Bus, queue: &QueueName, question: &Question) -> Result<Expectation, Error> {
    let answer = ask(bus, queue, question).await?;
    expectation(queue, answer)
}

/// Asks when such a task would start, of a leader that may refuse to say, such as while it is asked too
/// much: then `None`.
pub(crate) async fn expect_if_told(
    bus: &Bus,
    queue: &QueueName,
    question: &Question,
) -> Result<Option<Expectation>, Error> {
    match put(bus, queue, question).await? {
        Answer::Refused { reason } => {
            tracing::debug!(%queue, reason, "The leader did not say when a task would start.");
            Ok(None)
        }
        answer => expectation(queue, answer).map(Some),
    }
}

fn expectation(queue: &QueueName, answer: Answer) -> Result<Expectation, Error> {
    match answer {
        Answer::Expectation(expectation) => Ok(expectation),
        other => Err(Error::Answer { queue: queue.clone(), reason: format!("it answers something else: {other:?}") }),
    }
}
