//! Hearing of stored completions: batches, which are told once they are stored, and those that were stored
//! alone, which are told ahead and count once the server's ack has come.

use crate::acks::says_stored;
use crate::connection::{Bus, Message, Subscription};
use crate::error::Error;
use jetlane_schemas::{TaskType, subject};
use std::collections::VecDeque;

/// Completions told ahead whose ack has not come, at most; beyond it the oldest are given up, and whoever waits
/// for them looks them up.
const AHEAD_MAX: usize = 256;

/// What is told of stored completions from now on; [`jetlane_schemas::frame::Told`] reads each message.
#[derive(Debug)]
pub struct Hearing {
    told: Subscription,
    /// `None` where the first hears all.
    alone: Option<Subscription>,
    ahead: Ahead,
}

impl Bus {
    /// Hears of the stored completions of a type.
    ///
    /// # Errors
    /// [`Error::Subscribe`].
    pub async fn hear_told(&self, task_type: &TaskType) -> Result<Hearing, Error> {
        let told = self.subscribe(&subject::told(task_type)).await?;
        let alone = Some(self.subscribe(&subject::told_alone(task_type)).await?);
        Ok(Hearing { told, alone, ahead: Ahead::default() })
    }

    /// Hears of the stored completions of all types.
    ///
    /// # Errors
    /// [`Error::Subscribe`].
    pub async fn hear_all_told(&self) -> Result<Hearing, Error> {
        let told = self.subscribe(subject::TOLD_ALL).await?;
        Ok(Hearing { told, alone: None, ahead: Ahead::default() })
    }
}

impl Hearing {
    /// The next message of completions that are stored; `None` once the connection is closed for good. Cancel
    /// safe.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            let message = match &mut self.alone {
                Some(alone) => tokio::select! {
                    message = self.told.next() => message,
                    message = alone.next() => message,
                },
                None => self.told.next().await,
            };
            if let Some(message) = self.ahead.take(message?) {
                return Some(message);
            }
        }
    }
}

/// What was told ahead and what was acked, until the two meet.
#[derive(Debug, Default)]
struct Ahead {
    /// By the subject on which its ack comes.
    told: VecDeque<(String, Message)>,
    /// Acks that came first: over a cluster's routes, what came from another server has an order of its own.
    acked: VecDeque<String>,
}

impl Ahead {
    /// What a message says is stored, if anything.
    fn take(&mut self, message: Message) -> Option<Message> {
        if let Some(acked) = subject::parse_told_ahead(&message.subject) {
            if let Some(place) = self.acked.iter().position(|early| early == acked) {
                self.acked.remove(place);
                return Some(message);
            }
            let acked = acked.to_owned();
            keep(&mut self.told, (acked, message));
            return None;
        }
        if !subject::is_acked(&message.subject) {
            return Some(message);
        }
        let is_stored = says_stored(&message.body);
        match self.told.iter().position(|(acked, _)| *acked == message.subject) {
            Some(place) => self.told.remove(place).filter(|_| is_stored).map(|(_, told)| told),
            None => {
                if is_stored {
                    keep(&mut self.acked, message.subject);
                }
                None
            }
        }
    }
}

fn keep<T>(those: &mut VecDeque<T>, one: T) {
    if those.len() == AHEAD_MAX {
        those.pop_front();
    }
    those.push_back(one);
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::Headers;

    fn message(subject: String, body: &'static str) -> Message {
        Message { subject, reply: None, headers: Headers::new(), body: body.into() }
    }

    #[test]
    fn what_is_told_ahead_counts_once_its_own_ack_says_so_and_then_once() {
        let task_type = TaskType::new("a.b").expect("valid");
        let (stored, refused) = (r#"{"stream":"S","seq":7}"#, r#"{"error":{"err_code":10071},"seq":0}"#);
        let told = |number| message(subject::told_ahead(&task_type, "c", number), "told");
        let acked = |number, body| message(subject::acked(&task_type, "c", number), body);
        let mut ahead = Ahead::default();
        assert!(ahead.take(told(1)).is_none() && ahead.take(told(2)).is_none());
        assert!(ahead.take(acked(3, stored)).is_none(), "another one's ack");
        assert!(ahead.take(acked(1, refused)).is_none() && ahead.take(acked(1, stored)).is_none());
        assert_eq!(ahead.take(acked(2, stored)).expect("stored").body, "told");
        assert!(ahead.take(acked(2, stored)).is_none(), "told before");
        assert!(ahead.take(acked(4, stored)).is_none());
        assert!(ahead.take(told(4)).is_some(), "its ack came first");
        assert!(ahead.take(message(subject::told(&task_type), "many")).is_some());
    }

    #[test]
    fn what_is_never_acked_takes_up_a_bounded_place() {
        let task_type = TaskType::new("a.b").expect("valid");
        let mut ahead = Ahead::default();
        for number in 0..AHEAD_MAX + 3 {
            ahead.take(message(subject::told_ahead(&task_type, "c", number), ""));
        }
        assert_eq!(ahead.told.len(), AHEAD_MAX);
    }
}
