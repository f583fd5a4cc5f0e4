//! Virtual time and processes: a small deterministic runtime for futures. A process is a group of tasks that
//! can be killed (its futures are dropped), or frozen (its tasks are not polled until it thaws).
//!
//! Nothing here is random and nothing depends on the machine: the same program runs in the same order.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Microseconds of virtual time.
pub type Time = u64;

/// A millisecond.
pub const MS: Time = 1_000;
/// A second.
pub const SECOND: Time = 1_000 * MS;

/// A process, numbered in the order of starting: a restarted service is a new process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process(pub usize);

type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Spawned {
    process: Process,
    /// `None` while it is polled.
    work: Option<Work>,
}

#[derive(Debug, Default)]
struct Status {
    is_dead: bool,
    is_frozen: bool,
    /// Tasks that woke while it was frozen.
    woken: Vec<usize>,
}

enum What {
    Wake(usize),
    Run(Box<dyn FnOnce()>),
}

struct Timer {
    at: Time,
    number: u64,
    what: What,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    /// The earliest is the greatest: the heap hands it out first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

#[derive(Default)]
struct Inner {
    now: Cell<Time>,
    numbers: Cell<u64>,
    timers: RefCell<BinaryHeap<Timer>>,
    /// By number, which is never used again.
    tasks: RefCell<BTreeMap<usize, Spawned>>,
    next_task: Cell<usize>,
    ready: RefCell<VecDeque<usize>>,
    current: Cell<usize>,
    processes: RefCell<Vec<Status>>,
}

/// The clock, the tasks and the processes. Clones share them.
#[derive(Clone, Default)]
pub struct World(Rc<Inner>);

impl World {
    /// The time.
    pub fn now(&self) -> Time {
        self.0.now.get()
    }

    /// Starts a process without tasks.
    pub fn process(&self) -> Process {
        let mut processes = self.0.processes.borrow_mut();
        processes.push(Status::default());
        Process(processes.len() - 1)
    }

    /// Starts a task of a process; nothing where the process is dead.
    pub fn spawn(&self, process: Process, work: impl Future<Output = ()> + 'static) {
        if self.is_dead(process) {
            return;
        }
        let number = self.0.next_task.get();
        self.0.next_task.set(number + 1);
        self.0.tasks.borrow_mut().insert(number, Spawned { process, work: Some(Box::pin(work)) });
        self.0.ready.borrow_mut().push_back(number);
    }

    /// Does something at a time.
    pub fn at(&self, at: Time, run: impl FnOnce() + 'static) {
        self.timer(at, What::Run(Box::new(run)));
    }

    /// Kills a process: its tasks end where they are.
    pub fn kill(&self, process: Process) {
        self.0.processes.borrow_mut()[process.0].is_dead = true;
        let dead: Vec<usize> = {
            let tasks = self.0.tasks.borrow();
            tasks.iter().filter(|(_, task)| task.process == process).map(|(number, _)| *number).collect()
        };
        // Dropped outside the borrow: what a future holds may look at the world.
        let dropped: Vec<Option<Spawned>> =
            dead.iter().map(|number| self.0.tasks.borrow_mut().remove(number)).collect();
        drop(dropped);
    }

    /// Freezes a process: it does nothing until it thaws, and then everything that it has missed.
    pub fn freeze(&self, process: Process) {
        self.0.processes.borrow_mut()[process.0].is_frozen = true;
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self, process: Process) {
        let woken = {
            let status = &mut self.0.processes.borrow_mut()[process.0];
            status.is_frozen = false;
            std::mem::take(&mut status.woken)
        };
        woken.into_iter().for_each(|task| self.wake(task));
    }

    /// Whether a process has been killed.
    pub fn is_dead(&self, process: Process) -> bool {
        self.0.processes.borrow()[process.0].is_dead
    }

    /// Whether a process is frozen.
    pub fn is_frozen(&self, process: Process) -> bool {
        self.0.processes.borrow()[process.0].is_frozen
    }

    /// Waits.
    pub fn sleep(&self, time: Time) -> impl Future<Output = ()> + use<> {
        let (world, until, mut is_set) = (self.clone(), self.now().saturating_add(time), false);
        std::future::poll_fn(move |_| {
            if world.now() >= until {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut is_set, true) {
                world.timer(until, What::Wake(world.0.current.get()));
            }
            Poll::Pending
        })
    }

    /// Waits for a future, for so long at most.
    pub async fn timeout<F: Future>(&self, limit: Time, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut end = pin!(self.sleep(limit));
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => end.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    /// Runs until `until`, or until nothing is left to happen. `is_over` is asked after every step of time.
    pub fn run(&self, until: Time, mut is_over: impl FnMut() -> bool) {
        loop {
            self.run_ready();
            if is_over() {
                return;
            }
            let Some(timer) = self.0.timers.borrow_mut().pop() else { return };
            if timer.at > until {
                return;
            }
            self.0.now.set(timer.at);
            match timer.what {
                What::Wake(task) => self.wake(task),
                What::Run(run) => run(),
            }
        }
    }

    fn timer(&self, at: Time, what: What) {
        let number = self.0.numbers.get();
        self.0.numbers.set(number + 1);
        self.0.timers.borrow_mut().push(Timer { at: at.max(self.now()), number, what });
    }

    fn wake(&self, task: usize) {
        let Some(process) = self.0.tasks.borrow().get(&task).map(|task| task.process) else { return };
        let status = &mut self.0.processes.borrow_mut()[process.0];
        if status.is_frozen {
            status.woken.push(task);
        } else {
            self.0.ready.borrow_mut().push_back(task);
        }
    }

    fn run_ready(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let Some(number) = self.0.ready.borrow_mut().pop_front() else { return };
            let Some((process, work)) =
                self.0.tasks.borrow_mut().get_mut(&number).map(|task| (task.process, task.work.take()))
            else {
                continue;
            };
            let Some(mut work) = work else { continue };
            if self.is_frozen(process) {
                if let Some(task) = self.0.tasks.borrow_mut().get_mut(&number) {
                    task.work = Some(work);
                }
                self.0.processes.borrow_mut()[process.0].woken.push(number);
                continue;
            }
            self.0.current.set(number);
            if work.as_mut().poll(&mut cx).is_ready() {
                self.0.tasks.borrow_mut().remove(&number);
                continue;
            }
            if let Some(task) = self.0.tasks.borrow_mut().get_mut(&number) {
                task.work = Some(work);
            }
        }
    }
}

/// Ends everything: tasks hold clones of the world, which would keep each other.
impl World {
    /// Drops all tasks and timers.
    pub fn clear(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        let timers = std::mem::take(&mut *self.0.timers.borrow_mut());
        drop((tasks, timers));
    }
}

struct Letters<T> {
    letters: VecDeque<T>,
    reader: Option<usize>,
}

/// A queue between tasks: whoever reads waits for the next. Clones share it.
pub struct Mailbox<T> {
    world: World,
    inner: Rc<RefCell<Letters<T>>>,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self { world: self.world.clone(), inner: Rc::clone(&self.inner) }
    }
}

impl<T> Mailbox<T> {
    /// An empty queue.
    pub fn new(world: &World) -> Self {
        let inner = Rc::new(RefCell::new(Letters { letters: VecDeque::new(), reader: None }));
        Self { world: world.clone(), inner }
    }

    /// Adds something.
    pub fn send(&self, letter: T) {
        let reader = {
            let mut inner = self.inner.borrow_mut();
            inner.letters.push_back(letter);
            inner.reader.take()
        };
        if let Some(reader) = reader {
            self.world.wake(reader);
        }
    }

    /// Takes the next, if there is one.
    pub fn try_take(&self) -> Option<T> {
        self.inner.borrow_mut().letters.pop_front()
    }

    /// Waits for the next.
    pub fn take(&self) -> impl Future<Output = T> + use<T> {
        let (inner, world) = (Rc::clone(&self.inner), self.world.clone());
        std::future::poll_fn(move |_| {
            let mut inner = inner.borrow_mut();
            match inner.letters.pop_front() {
                Some(letter) => Poll::Ready(letter),
                None => {
                    inner.reader = Some(world.0.current.get());
                    Poll::Pending
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_process_does_nothing_until_it_thaws_and_dead_one_never() {
        let world = World::default();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (frozen, dead) = (world.process(), world.process());
        for (process, name) in [(frozen, "frozen"), (dead, "dead")] {
            let (world, seen) = (world.clone(), Rc::clone(&seen));
            world.clone().spawn(process, async move {
                world.sleep(5 * SECOND).await;
                seen.borrow_mut().push((name, world.now()));
            });
        }
        let (first, second, third) = (world.clone(), world.clone(), world.clone());
        world.at(SECOND, move || third.freeze(frozen));
        world.at(2 * SECOND, move || first.kill(dead));
        world.at(9 * SECOND, move || second.thaw(frozen));
        world.run(60 * SECOND, || false);
        assert_eq!(*seen.borrow(), [("frozen", 9 * SECOND)]);
    }

    #[test]
    fn timeout_ends_what_takes_too_long_and_answer_in_time_wins() {
        let world = World::default();
        let process = world.process();
        let answers = Mailbox::new(&world);
        let (inner, told) = (world.clone(), answers.clone());
        world.spawn(process, async move {
            told.send(inner.timeout(SECOND, inner.sleep(2 * SECOND)).await.is_none());
            told.send(inner.timeout(2 * SECOND, inner.sleep(SECOND)).await.is_some());
        });
        world.run(60 * SECOND, || false);
        assert_eq!([answers.try_take(), answers.try_take(), answers.try_take()], [Some(true), Some(true), None]);
    }
}
