//! The mark that a run begins, stored before its handler: a task without retries never begins twice, and a task
//! that takes its executors with it is counted.
//!
//! A mark that was stored and whose handler does not begin (its lease lapsed meanwhile, the broker did not answer)
//! says too much. Its executor remembers that, and says so to whoever finds the mark; that one removes it.

use jetlane_bus::{Bus, Error};
use jetlane_core::run::Mark;
use jetlane_schemas::inquiry::BeginMark;
use jetlane_schemas::subject::{self, BUCKET_NOTES};
use jetlane_schemas::{RunToken, TaskEvent};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// The most marks that are remembered as never begun, the latest: more than an executor has runs in hand while its
/// broker is away.
const UNBEGUN_MAX: usize = 4_096;

/// A mark as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) mark: BeginMark,
    revision: u64,
}

impl Found {
    /// The mark as evidence; `None` where an earlier task of the same id left it.
    pub(crate) fn of(&self, task: &TaskEvent) -> Option<Mark> {
        let BeginMark { run, begun, stage, submitted_at, .. } = self.mark;
        (submitted_at == task.submitted_at).then_some(Mark { run, begun, stage })
    }
}

/// What became of a mark that was to be stored.
#[derive(Debug)]
pub(crate) enum Stored {
    /// It is stored.
    This(Found),
    /// Another one is, since.
    Other(Found),
}

/// Reads the mark of a task.
pub(crate) async fn read(bus: &Bus, task: &TaskEvent) -> Result<Option<Found>, Error> {
    let key = subject::note_begun(&task.task_type, &task.id);
    let (mark, revision) = bus.bucket(BUCKET_NOTES).await?.get_revision::<BeginMark>(&key).await?;
    Ok(mark.map(|mark| Found { mark, revision }))
}

/// Stores a mark unless another was stored since `seen`. A mark of the same token is this run's own: the answer to an
/// earlier try was lost.
pub(crate) async fn store(
    bus: &Bus,
    task: &TaskEvent,
    mark: &BeginMark,
    seen: Option<&Found>,
) -> Result<Stored, Error> {
    let key = subject::note_begun(&task.task_type, &task.id);
    let notes = bus.bucket(BUCKET_NOTES).await?;
    let mut seen = seen.map(|seen| seen.revision);
    loop {
        let revision = match seen {
            Some(seen) => notes.replace(&key, mark, seen).await?,
            None => notes.create(&key, mark).await?,
        };
        if let Some(revision) = revision {
            return Ok(Stored::This(Found { mark: mark.clone(), revision }));
        }
        match read(bus, task).await? {
            Some(found) if found.mark == *mark => return Ok(Stored::This(found)),
            Some(found) => return Ok(Stored::Other(found)),
            // It was removed since.
            None => seen = None,
        }
    }
}

/// Removes the mark of a handler that never began, unless another was stored since.
pub(crate) async fn withdraw(bus: &Bus, task: &TaskEvent, found: &Found) -> Result<(), Error> {
    let key = subject::note_begun(&task.task_type, &task.id);
    bus.bucket(BUCKET_NOTES).await?.delete_revision(&key, found.revision).await.map(|_was_there| ())
}

/// Removes the mark of a task that is over.
pub(crate) async fn remove(bus: &Bus, task: &TaskEvent) -> Result<(), Error> {
    bus.bucket(BUCKET_NOTES).await?.delete(&subject::note_begun(&task.task_type, &task.id)).await
}

/// What the mark of a run says.
pub(crate) fn of(mark: Mark, task: &TaskEvent, token: RunToken, executor: &str) -> BeginMark {
    let Mark { run, begun, stage } = mark;
    BeginMark { submitted_at: task.submitted_at, run, begun, stage, token, executor: executor.to_owned() }
}

/// What an executor says of a mark that bears its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Its handler is about to begin, or not: it is being stored.
    Undecided,
    /// Its handler never began, nor will.
    NeverBegan,
    /// Nothing is known against it.
    Stands,
}

/// The marks of this executor whose handlers have not begun.
#[derive(Debug, Default)]
pub(crate) struct Unbegun(Mutex<Tokens>);

#[derive(Debug, Default)]
struct Tokens {
    undecided: HashSet<RunToken>,
    never: VecDeque<RunToken>,
}

/// A mark that is being stored. Dropped, its handler never begins.
#[derive(Debug)]
pub(crate) struct Undecided {
    unbegun: Arc<Unbegun>,
    /// `None` once its handler begins.
    token: Option<RunToken>,
}

impl Unbegun {
    /// A mark is going to be stored.
    pub(crate) fn decide(self: &Arc<Self>, token: RunToken) -> Undecided {
        self.lock().undecided.insert(token);
        Undecided { unbegun: Arc::clone(self), token: Some(token) }
    }

    pub(crate) fn says(&self, token: RunToken) -> Word {
        let tokens = self.lock();
        if tokens.undecided.contains(&token) {
            Word::Undecided
        } else if tokens.never.contains(&token) {
            Word::NeverBegan
        } else {
            Word::Stands
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tokens> {
        self.0.lock().expect("nobody panics while holding the list of marks")
    }
}

impl Undecided {
    /// Its handler begins.
    pub(crate) fn begins(mut self) {
        if let Some(token) = self.token.take() {
            self.unbegun.lock().undecided.remove(&token);
        }
    }
}

impl Drop for Undecided {
    fn drop(&mut self) {
        let Some(token) = self.token else { return };
        let mut tokens = self.unbegun.lock();
        tokens.undecided.remove(&token);
        if tokens.never.len() == UNBEGUN_MAX {
            tokens.never.pop_front();
        }
        tokens.never.push_back(token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_whose_handler_begins_stands_and_one_that_is_dropped_never_began() {
        let unbegun = Arc::new(Unbegun::default());
        let [begins, dropped] = [RunToken::draw(), RunToken::draw()];
        let (first, second) = (unbegun.decide(begins), unbegun.decide(dropped));
        assert_eq!([unbegun.says(begins), unbegun.says(dropped)], [Word::Undecided; 2]);
        first.begins();
        drop(second);
        assert_eq!([unbegun.says(begins), unbegun.says(dropped)], [Word::Stands, Word::NeverBegan]);
    }

    #[test]
    fn as_many_marks_are_remembered_as_never_begun_as_there_is_room_for() {
        let unbegun = Arc::new(Unbegun::default());
        let tokens: Vec<RunToken> = (0..=UNBEGUN_MAX).map(|_| RunToken::draw()).collect();
        tokens.iter().for_each(|token| drop(unbegun.decide(*token)));
        assert_eq!(unbegun.says(tokens[0]), Word::Stands);
        assert_eq!(unbegun.says(tokens[UNBEGUN_MAX]), Word::NeverBegan);
    }
}
