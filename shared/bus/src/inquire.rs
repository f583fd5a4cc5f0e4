//! Asks other processes over core NATS, and tells apart a process that is silent from one that is not connected.

use crate::ack::Ack;
use crate::connection::Bus;
use crate::error::Error;
use crate::pull::DeliveryFacts;
use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use std::time::Duration;

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Somebody answered.
    Answer(Bytes),
    /// Somebody listens and did not answer in time.
    Silent,
    /// Nobody listens: the server said so.
    Nobody,
}

impl Bus {
    /// Asks whoever listens to a subject, and waits for the first answer.
    ///
    /// # Errors
    /// [`Error::Send`] when the connection is closed or the question too large.
    pub async fn inquire(&self, subject: &str, question: Bytes, within: Duration) -> Result<Reply, Error> {
        let request = async_nats::Request::new().payload(question).timeout(Some(within));
        match self.client.send_request(subject.to_owned(), request).await {
            Ok(answer) => Ok(Reply::Answer(answer.payload)),
            Err(error) => match error.kind() {
                RequestErrorKind::TimedOut => Ok(Reply::Silent),
                RequestErrorKind::NoResponders => Ok(Reply::Nobody),
                RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::Other => {
                    Err(Error::Send { subject: subject.to_owned(), source: error.into() })
                }
            },
        }
    }

    /// How a delivery of this sequence of a stream is answered that another process got; `None` where `reply` is no
    /// ack subject of such a delivery.
    pub fn ack_of(&self, stream: &str, sequence: u64, reply: &str) -> Option<Ack> {
        let facts = DeliveryFacts::parse(reply).filter(|facts| facts.stream_sequence == sequence)?;
        let names_stream = reply.starts_with("$JS.ACK.") && reply.contains(&format!(".{stream}."));
        (names_stream && facts.delivered > 0).then(|| Ack { bus: self.clone(), reply: reply.into() })
    }
}

impl Ack {
    /// The subject by which the delivery is answered.
    pub fn subject(&self) -> &str {
        &self.reply
    }
}
