//! Overhears what the broker gives to leaders, what they dispatch, and who tells room for tasks.

use async_nats::Message;
use futures::StreamExt as _;
use jetlane_faults::admin::Admin;
use jetlane_faults::roles::tasks::QUEUE;
use jetlane_schemas::frame::{Credit, decode_bundle};
use jetlane_schemas::{TaskEvent, subject};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::task::AbortHandle;

/// What was overheard.
#[derive(Debug, Default)]
struct Overheard {
    /// How often each executor has told its room.
    executors: BTreeMap<String, usize>,
    /// The leaders' consumers that were given a task.
    given: BTreeMap<String, BTreeSet<String>>,
    /// Tasks that were given to a second leader and dispatched as if they had been given to nobody before.
    trusted: BTreeSet<String>,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Spy {
    overheard: Arc<Mutex<Overheard>>,
    listening: AbortHandle,
}

impl Spy {
    /// Listens to executors.
    pub(crate) async fn on_executors(admin: &Admin) -> anyhow::Result<Self> {
        Self::listen(admin, &[&subject::credit(&QUEUE.parse()?)]).await
    }

    /// Listens to leaders. The server takes pulls of a dead process for alive meanwhile, since somebody hears the answer.
    pub(crate) async fn on_leaders(admin: &Admin) -> anyhow::Result<Self> {
        Self::listen(admin, &["_INBOX.>", subject::BUNDLE_ALL]).await
    }

    async fn listen(admin: &Admin, subjects: &[&str]) -> anyhow::Result<Self> {
        let mut subscriptions = Vec::new();
        for subject in subjects {
            subscriptions.push(admin.client.subscribe((*subject).to_owned()).await?);
        }
        admin.client.flush().await?;
        let overheard = Arc::new(Mutex::new(Overheard::default()));
        let told = Arc::clone(&overheard);
        let mut messages = futures::stream::select_all(subscriptions);
        let listening = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                told.lock().expect("nobody panics while listening").hear(&message);
            }
        });
        Ok(Self { overheard, listening: listening.abort_handle() })
    }

    /// How many executors have told their room.
    pub(crate) fn executors(&self) -> usize {
        self.overheard.lock().expect("nobody panics while listening").executors.len()
    }

    /// How often executors have told their room.
    pub(crate) fn credits(&self) -> usize {
        self.overheard.lock().expect("nobody panics while listening").executors.values().sum()
    }

    /// Tasks that a second leader trusted.
    pub(crate) fn trusted(&self) -> BTreeSet<String> {
        self.overheard.lock().expect("nobody panics while listening").trusted.clone()
    }
}

impl Drop for Spy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Overheard {
    fn hear(&mut self, message: &Message) {
        if let Some(consumer) = message.reply.as_deref().and_then(leaders_consumer) {
            for task in decode_bundle(&message.payload).unwrap_or_default() {
                self.given.entry(name(&task)).or_default().insert(consumer.to_owned());
            }
        } else if message.subject.starts_with("jetlane.bundle.") {
            let tasks = decode_bundle(&message.payload).unwrap_or_default();
            for name in tasks.iter().filter(|task| !task.suspect).map(name) {
                if self.given.get(&name).is_some_and(|given| given.len() > 1) {
                    self.trusted.insert(name);
                }
            }
        } else if let Ok(credit) = Credit::decode(&message.payload) {
            *self.executors.entry(credit.executor.to_string()).or_default() += 1;
        }
    }
}

fn name(task: &TaskEvent) -> String {
    format!("{}.{}", task.task_type, task.id)
}

/// The consumer of a delivery from the intake, by where its ack goes.
fn leaders_consumer(ack: &str) -> Option<&str> {
    let rest = ack.strip_prefix("$JS.ACK.")?.strip_prefix(subject::STREAM_TASKS)?.strip_prefix('.')?;
    rest.split('.').next()
}
