//! Who waits for which completion. One subscription a type; what it may have missed is read back
//! after a reconnect, and now and then.

use crate::error::Error;
use futures::StreamExt;
use jetlane_bus::{Bus, Hearing, Message};
use jetlane_schemas::frame::Told;
use jetlane_schemas::{Completion, TaskEvent, TaskId, TaskType, subject};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How often those who have waited long are looked up in DONE: a net, not the way.
const LOOK_UP_EVERY: Duration = Duration::from_secs(15);
/// How long that is: who came shortly after a round is not left to the one after next.
const WAITED_LONG: Duration = Duration::from_millis(7_500);
/// Look-ups in flight at once.
const LOOK_UPS_IN_FLIGHT: usize = 32;
/// The most look-ups of one round and type, so that a million waiting handles cost a bounded load: 273 requests a
/// second. Those looked up longest ago come first, so that each has its turn.
const LOOK_UPS_A_ROUND: usize = 4_096;

type Waiting = HashMap<TaskId, Vec<Waiter>>;

#[derive(Debug)]
struct Waiter {
    number: u64,
    /// When it began to wait, or was looked up last.
    looked_up: Instant,
    /// A completion that DONE had under this sequence or before is an earlier task's.
    done_sequence: u64,
    told: oneshot::Sender<Completion>,
}

#[derive(Debug, Default)]
struct Types {
    listening: HashMap<TaskType, Arc<Mutex<Waiting>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    waiters_made: u64,
}

/// All that this client listens to.
#[derive(Debug)]
pub(crate) struct Listening {
    bus: Bus,
    types: tokio::sync::Mutex<Types>,
}

/// One wait for one completion; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    number: u64,
    id: TaskId,
    waiting: Arc<Mutex<Waiting>>,
    /// `None` once it was told.
    told: Option<oneshot::Receiver<Completion>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Whoever is told is taken from the list before.
        if self.told.is_none() {
            return;
        }
        let mut waiting = lock(&self.waiting);
        if let Some(waiters) = waiting.get_mut(self.id.as_str()) {
            waiters.retain(|waiter| waiter.number != self.number);
            if waiters.is_empty() {
                waiting.remove(self.id.as_str());
            }
        }
    }
}

impl Listener {
    /// The completion; `None` when the connection is closed for good.
    pub(crate) async fn completion(&mut self) -> Option<Completion> {
        let told = self.told.as_mut()?.await;
        self.told = None;
        told.ok()
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().expect("nobody panics while holding the list of waiters")
}

impl Listening {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus, types: tokio::sync::Mutex::default() }
    }

    /// Listens for a task's completion from now on: what was stored before is not told, and what DONE has under
    /// `done_sequence` or before counts as an earlier task's.
    ///
    /// # Errors
    /// [`Error::Subscribe`].
    pub(crate) async fn expect(
        &self,
        task_type: &TaskType,
        id: &TaskId,
        done_sequence: u64,
    ) -> Result<Listener, Error> {
        let mut types = self.types.lock().await;
        types.waiters_made += 1;
        let number = types.waiters_made;
        let waiting = match types.listening.get(task_type) {
            Some(waiting) => Arc::clone(waiting),
            None => self.listen(&mut types, task_type).await?,
        };
        drop(types);
        let (told, receiver) = oneshot::channel();
        let waiter = Waiter { number, looked_up: Instant::now(), done_sequence, told };
        lock(&waiting).entry(id.clone()).or_default().push(waiter);
        Ok(Listener { number, id: id.clone(), waiting, told: Some(receiver) })
    }

    /// Listens for the completions of many tasks; the listeners have the order of the tasks.
    ///
    /// # Errors
    /// [`Error::Subscribe`].
    pub(crate) async fn expect_all<'a>(
        &self,
        tasks: impl ExactSizeIterator<Item = &'a TaskEvent>,
    ) -> Result<Vec<Listener>, Error> {
        let mut types = self.types.lock().await;
        let (mut listeners, looked_up) = (Vec::with_capacity(tasks.len()), Instant::now());
        let mut last: Option<(&TaskType, Arc<Mutex<Waiting>>)> = None;
        for task in tasks {
            let waiting = match &last {
                Some((task_type, waiting)) if **task_type == task.task_type => Arc::clone(waiting),
                _ => match types.listening.get(&task.task_type) {
                    Some(waiting) => Arc::clone(waiting),
                    None => self.listen(&mut types, &task.task_type).await?,
                },
            };
            types.waiters_made += 1;
            let (told, receiver) = oneshot::channel();
            let (number, id) = (types.waiters_made, task.id.clone());
            // Nearly all tasks have one.
            let waiters = || Vec::with_capacity(1);
            lock(&waiting).entry(id.clone()).or_insert_with(waiters).push(Waiter {
                number,
                looked_up,
                done_sequence: 0,
                told,
            });
            listeners.push(Listener { number, id, waiting: Arc::clone(&waiting), told: Some(receiver) });
            last = Some((&task.task_type, waiting));
        }
        Ok(listeners)
    }

    async fn listen(&self, types: &mut Types, task_type: &TaskType) -> Result<Arc<Mutex<Waiting>>, Error> {
        let subject = subject::told(task_type);
        let failed = |source| Error::Subscribe { name: subject.clone(), source };
        let hearing = self.bus.hear_told(task_type).await.map_err(failed)?;
        let waiting = Arc::new(Mutex::new(Waiting::new()));
        let (missed, look_ups) = mpsc::channel(1);
        types.tasks.push(tokio::spawn(hear(hearing, Arc::clone(&waiting))));
        types.tasks.push(tokio::spawn(notice_gaps(self.bus.clone(), missed)));
        types.tasks.push(tokio::spawn(look_up(self.bus.clone(), task_type.clone(), Arc::clone(&waiting), look_ups)));
        types.listening.insert(task_type.clone(), Arc::clone(&waiting));
        Ok(waiting)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.types.get_mut().tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn hear(mut hearing: Hearing, waiting: Arc<Mutex<Waiting>>) {
    while let Some(message) = hearing.next().await {
        tell_message(&waiting, &message);
    }
    lock(&waiting).clear();
}

/// Most completions may be other submitters': their ids are looked at before anything is made of them.
fn tell_message(waiting: &Mutex<Waiting>, message: &Message) {
    let told = match Told::decode(&message.body) {
        Ok(told) => told,
        Err(error) => return tracing::warn!(%error, "Completions that were told cannot be read; they are looked up."),
    };
    let mut heard = Vec::new();
    {
        let mut waiting = lock(waiting);
        heard.extend(told.iter().filter_map(|(id, one)| Some((waiting.remove(id)?, one))));
    }
    for (waiters, one) in heard {
        match one.completion() {
            Ok(completion) => tell(waiters, completion),
            Err(error) => tracing::warn!(%error, "A completion cannot be read; whoever waits for it is not told."),
        }
    }
}

fn tell(mut waiters: Vec<Waiter>, completion: Completion) {
    let last = waiters.pop();
    for waiter in waiters {
        // Who has stopped waiting need not be told.
        let _gone = waiter.told.send(completion.clone());
    }
    if let Some(waiter) = last {
        let _gone = waiter.told.send(completion);
    }
}

/// Whether everybody is looked up, or only those who have waited long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookUp {
    Everybody,
    ThoseWhoWaitLong,
}

async fn notice_gaps(bus: Bus, missed: mpsc::Sender<LookUp>) {
    let mut gaps = bus.gaps();
    gaps.mark_unchanged();
    let mut every = tokio::time::interval_at(Instant::now() + LOOK_UP_EVERY, LOOK_UP_EVERY);
    loop {
        let look_up = tokio::select! {
            changed = gaps.changed() => match changed {
                Ok(()) => LookUp::Everybody,
                Err(_) => return,
            },
            _ = every.tick() => LookUp::ThoseWhoWaitLong,
        };
        if missed.send(look_up).await.is_err() {
            return;
        }
    }
}

async fn look_up(bus: Bus, task_type: TaskType, waiting: Arc<Mutex<Waiting>>, mut missed: mpsc::Receiver<LookUp>) {
    while let Some(look_up) = missed.recv().await {
        let now = Instant::now();
        let until = match look_up {
            LookUp::Everybody => now,
            LookUp::ThoseWhoWaitLong => now.checked_sub(WAITED_LONG).unwrap_or(now),
        };
        loop {
            let ids = take_turn(&mut lock(&waiting), until, LOOK_UPS_A_ROUND);
            let is_last = ids.len() < LOOK_UPS_A_ROUND || look_up == LookUp::ThoseWhoWaitLong;
            futures::stream::iter(ids)
                .for_each_concurrent(LOOK_UPS_IN_FLIGHT, |id| look_up_one(&bus, &task_type, &waiting, id))
                .await;
            if is_last {
                break;
            }
        }
    }
}

/// The tasks whose waiters were looked up last at `until` or before, the longest ago first and at most `most`. They
/// count as looked up from now on.
fn take_turn(waiting: &mut Waiting, until: Instant, most: usize) -> Vec<TaskId> {
    let last = |waiters: &[Waiter]| waiters.iter().map(|waiter| waiter.looked_up).min();
    let due = waiting.iter().filter_map(|(id, waiters)| Some((last(waiters)?, id))).filter(|(at, _)| *at <= until);
    let mut due: Vec<(Instant, TaskId)> = due.map(|(at, id)| (at, id.clone())).collect();
    if due.len() > most {
        due.select_nth_unstable_by_key(most, |(at, _)| *at);
        due.truncate(most);
    }
    let now = Instant::now();
    for (_, id) in &due {
        for waiter in waiting.get_mut(id.as_str()).into_iter().flatten() {
            waiter.looked_up = now;
        }
    }
    due.into_iter().map(|(_, id)| id).collect()
}

async fn look_up_one(bus: &Bus, task_type: &TaskType, waiting: &Mutex<Waiting>, id: TaskId) {
    let done_sequence = |waiters: &Vec<Waiter>| waiters.iter().map(|waiter| waiter.done_sequence).max();
    let after = lock(waiting).get(id.as_str()).and_then(done_sequence).unwrap_or(0);
    match bus.read_done_after(task_type, &id, after).await {
        Ok(Some(completion)) => {
            if let Some(waiters) = lock(waiting).remove(&id) {
                tell(waiters, completion);
            }
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "A look-up failed; the next round tries again."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_of_many_waiters_is_looked_up_in_its_turn() {
        const WAITERS: usize = 100;
        let since = Instant::now();
        let waiter = |number| Waiter { number, looked_up: since, done_sequence: 0, told: oneshot::channel().0 };
        let mut waiting: Waiting = (0..WAITERS).map(|n| (TaskId::generate(), vec![waiter(n as u64)])).collect();
        let mut looked_up = HashSet::new();
        for _ in 0..4 {
            let turn = take_turn(&mut waiting, since, 30);
            assert!(turn.len() <= 30);
            looked_up.extend(turn);
        }
        assert_eq!(looked_up.len(), WAITERS);
        assert!(take_turn(&mut waiting, since, 30).is_empty(), "nobody is due twice in a round");
    }
}
