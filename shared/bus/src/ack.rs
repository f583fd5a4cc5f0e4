//! Answers to deliveries.

use crate::connection::{ANSWER_TIMEOUT, Bus};
use crate::error::Error;
use bytes::Bytes;
use std::time::Duration;

/// How a delivery is answered. Clones answer the same delivery.
#[derive(Debug, Clone)]
pub struct Ack {
    pub(crate) bus: Bus,
    pub(crate) reply: async_nats::Subject,
}

impl Ack {
    /// The same answer over another connection.
    #[must_use]
    pub fn over(self, bus: &Bus) -> Self {
        Self { bus: bus.clone(), reply: self.reply }
    }

    /// It is settled: the server removes it. Sent, not confirmed: a lost ack brings it again.
    ///
    /// # Errors
    /// [`Error::Send`] when the connection is closed.
    pub async fn settle(&self) -> Result<(), Error> {
        self.answer(Bytes::from_static(b"+ACK")).await
    }

    /// The same, with the next publish of this connection or a few milliseconds later: one write less.
    ///
    /// # Errors
    /// [`Error::Send`] when the connection is closed.
    pub async fn settle_soon(&self) -> Result<(), Error> {
        let waits = self.bus.settling.add(&self.bus.client, self.reply.clone()).await;
        waits.map_err(|source| Error::Send { subject: self.reply.to_string(), source: source.into() })
    }

    /// It is still held: the server waits one more ack time. Sent, not confirmed.
    ///
    /// # Errors
    /// [`Error::Send`] when the connection is closed.
    pub async fn hold(&self) -> Result<(), Error> {
        self.answer(Bytes::from_static(b"+WPI")).await
    }

    /// It goes back at once, or after a delay. Spends a delivery.
    ///
    /// # Errors
    /// [`Error::Send`] when the connection is closed.
    pub async fn give_back(&self, delay: Duration) -> Result<(), Error> {
        let body = if delay.is_zero() {
            Bytes::from_static(b"-NAK")
        } else {
            format!("-NAK {{\"delay\":{}}}", delay.as_nanos()).into()
        };
        self.answer(body).await
    }

    /// It is still held, and the server has said so within `within` (or the answer time-out). A stale
    /// delivery is answered too: the answer alone proves no lease.
    pub async fn hold_confirmed(&self, within: Duration) -> bool {
        let request =
            async_nats::Request::new().payload(Bytes::from_static(b"+WPI")).timeout(Some(within.min(ANSWER_TIMEOUT)));
        self.bus.client.send_request(self.reply.clone(), request).await.is_ok()
    }

    /// It is settled, and the server has said so.
    pub async fn settle_confirmed(&self) -> bool {
        let request = async_nats::Request::new().payload(Bytes::from_static(b"+ACK")).timeout(Some(ANSWER_TIMEOUT));
        self.bus.client.send_request(self.reply.clone(), request).await.is_ok()
    }

    async fn answer(&self, body: Bytes) -> Result<(), Error> {
        self.bus
            .client
            .publish(self.reply.clone(), body)
            .await
            .map_err(|source| Error::Send { subject: self.reply.to_string(), source: source.into() })
    }
}
