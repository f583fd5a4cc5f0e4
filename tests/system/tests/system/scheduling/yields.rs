//! Promise: under `srtf` a long task yields to a much shorter one and goes on from its place, anywhere; one
//! that cannot is left alone.

use crate::outsider::Outsider;
use crate::tasks::{Bench, Gated, gated};
use crate::waits::{announced, drained, until};
use crate::workshop::{declare, ordered, queue, until_told};
use futures::{FutureExt, StreamExt};
use jetlane::{Concurrency, Ctx, Executor, Outcome, Reason, State, Task, TaskError};
use jetlane_schemas::registry::PolicyName;
use jetlane_testkit::{Kit, soon};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore};

/// Turns pages, and can stop between any two.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Book {
    pages: u32,
}

impl Task for Book {
    const TYPE: &'static str = "test.book";
    type Output = u32;
}

/// One of the executors, with what they share.
#[derive(Clone)]
struct Desk {
    bench: Bench,
    reading: Arc<Reading>,
}

struct Reading {
    /// A page is turned with a permit.
    turns: Semaphore,
    /// Every page that was read, in order.
    read: Mutex<Vec<u32>>,
}

async fn book(task: Book, ctx: Ctx, State(desk): State<Desk>) -> Result<u32, TaskError> {
    let first = ctx.resume::<u32>().unwrap_or(0);
    desk.bench.begin(&format!("book from {first}"), ctx.attempt()).await;
    for page in first..task.pages {
        ctx.yield_point(&page, Duration::from_secs(1) * (task.pages - page))?;
        desk.reading.turns.acquire().await?.forget();
        desk.reading.read.lock().await.push(page);
    }
    Ok(first)
}

/// The same as [`gated`], beside a book.
async fn gate(task: Gated, ctx: Ctx, State(desk): State<Desk>) -> Result<String, TaskError> {
    gated(task, ctx, State(desk.bench)).await
}

/// The pages of a book: more than are turned one by one until somebody has to yield.
const PAGES: u32 = 2_000;

struct Library {
    kit: Kit,
    reading: Arc<Reading>,
}

impl Library {
    async fn open() -> Self {
        let kit = Kit::start().await;
        declare(&kit, &ordered(PolicyName::Srtf)).await;
        Self { kit, reading: Arc::new(Reading { turns: Semaphore::new(0), read: Mutex::default() }) }
    }

    /// Starts an executor.
    async fn desk(&self, slots: usize) -> Bench {
        let desk = Desk { bench: Bench::default(), reading: Arc::clone(&self.reading) };
        let bench = desk.bench.clone();
        let executor = Executor::new(self.kit.client(), queue().as_str()).state(desk).slots(slots).prefetch(0);
        self.kit.serve(executor.concurrency(Concurrency::Fixed).task(gate).task(book));
        announced(&self.kit, Book::TYPE).await;
        bench
    }

    fn gated(&self, name: &str, estimate: Duration) -> jetlane::Submit<String> {
        self.kit.client().submit(Gated { text: name.into() }).estimate(estimate)
    }

    fn book(&self) -> jetlane::Submit<u32> {
        self.kit.client().submit(Book { pages: PAGES }).estimate(Duration::from_secs(u64::from(PAGES)))
    }

    /// Turns pages until so many runs have begun at a desk.
    async fn read_until_begun(&self, bench: &Bench, runs: usize) {
        until("the book yields", async || {
            self.reading.turns.add_permits(1);
            bench.began.lock().await.len() >= runs
        })
        .await;
    }
}

const SHORT: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_task_yields_to_a_short_one_and_goes_on_from_its_place_on_another_executor() {
    let library = Library::open().await;
    let outsider = Outsider::connect(&library.kit.url()).await;
    let mut completions = outsider.listen(format!("jetlane.done.{}.*", Book::TYPE)).await;
    let here = library.desk(1).await;
    let mut long = library.book().await.expect("accepted");
    here.begun(1).await;
    let short = library.gated("short", SHORT).await.expect("accepted");
    library.read_until_begun(&here, 2).await;
    assert_eq!(here.began.lock().await[..], [("book from 0".to_owned(), 1), ("short".to_owned(), 1)]);
    // The short one runs on here; the long one goes on elsewhere.
    let left_at = library.reading.read.lock().await.len();
    let there = library.desk(1).await;
    assert_eq!(there.begun(1).await, [(format!("book from {left_at}"), 1)]);
    library.reading.turns.add_permits(PAGES as usize);
    let done = soon(long.completion()).await.expect("completes");
    assert_eq!((done.outcome, done.attempt), (Outcome::Succeeded, 1), "a yield spends no attempt");
    assert_eq!(*library.reading.read.lock().await, (0..PAGES).collect::<Vec<_>>(), "each page is read once");
    here.gate.0.add_permits(1);
    assert_eq!(soon(short.into_future()).await.expect("succeeds"), "short");
    drained(library.kit.client().bus(), &[]).await;
    outsider.round_trip().await;
    let mut count = 0;
    while completions.next().now_or_never().is_some() {
        count += 1;
    }
    assert_eq!((count, here.began.lock().await.len(), there.began.lock().await.len()), (1, 2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_cannot_stop_is_never_interrupted() {
    let library = Library::open().await;
    let bench = library.desk(2).await;
    let mut stubborn = library.gated("stubborn", Duration::from_secs(9_000)).await.expect("accepted");
    bench.begun(1).await;
    let mut long = library.book().await.expect("accepted");
    bench.begun(2).await;
    // The one with less left to do yields, since it is the one that can.
    library.gated("short 1", SHORT).await.expect("accepted");
    library.read_until_begun(&bench, 3).await;
    // Nobody is there to yield to the next.
    let next = library.gated("short 2", SHORT).await.expect("accepted");
    let told = until_told(library.kit.client(), next.id(), |_| true).await;
    assert_eq!(told.reasons, [Reason::NoRoom]);
    // Permits go to those who wait longest.
    bench.gate.0.add_permits(1);
    let done = soon(stubborn.completion()).await.expect("completes");
    assert_eq!((done.outcome, done.attempt), (Outcome::Succeeded, 1));
    let began: Vec<String> = bench.begun(4).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(began, ["stubborn", "book from 0", "short 1", "short 2"]);
    bench.gate.0.add_permits(2);
    library.reading.turns.add_permits(PAGES as usize);
    assert_eq!(soon(long.completion()).await.expect("completes").attempt, 1);
    assert_eq!(*library.reading.read.lock().await, (0..PAGES).collect::<Vec<_>>());
}
