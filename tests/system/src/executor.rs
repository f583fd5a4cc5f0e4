//! An executor to kill, to stop and to let die. It says on standard output which runs began; a line on
//! standard input lets one of them end; it ends by itself once standard input is closed.

use jetlane::{Client, Ctx, Executor, State, Task, TaskError, TaskOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Semaphore;

/// Runs until a line comes on standard input.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Held {
    text: String,
}

impl Task for Held {
    const TYPE: &'static str = "test.held";
    type Output = String;
}

async fn held(task: Held, ctx: Ctx, State(lines): State<Arc<Semaphore>>) -> Result<String, TaskError> {
    tell(&format!("began {} {}", task.text, ctx.attempt()))?;
    lines.acquire().await?.forget();
    Ok("by the process".into())
}

/// Takes its process down with it.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Deadly {}

impl Task for Deadly {
    const TYPE: &'static str = "test.deadly";
    type Output = ();

    fn options() -> TaskOptions {
        TaskOptions { retries: 1, ..TaskOptions::default() }
    }
}

async fn deadly(_: Deadly, ctx: Ctx) -> Result<(), TaskError> {
    tell(&format!("began deadly {}", ctx.attempt()))?;
    std::process::abort()
}

/// Fails at its first two attempts.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct FailsTwice {}

impl Task for FailsTwice {
    const TYPE: &'static str = "test.fails-twice";
    type Output = u32;

    fn options() -> TaskOptions {
        TaskOptions { retries: 2, backoff: Duration::from_secs(1), ..TaskOptions::default() }
    }
}

async fn fails_twice(_: FailsTwice, ctx: Ctx) -> Result<u32, TaskError> {
    tell(&format!("began fails-twice {}", ctx.attempt()))?;
    if ctx.attempt() > 2 { Ok(ctx.attempt()) } else { Err(TaskError::retry("not yet")) }
}

fn tell(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

async fn read_lines(permits: Arc<Semaphore>) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(_)) = lines.next_line().await {
        permits.add_permits(1);
    }
    // Whoever started this process is gone.
    std::process::exit(0)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::connect(std::env::var("NATS_URL")?).await?;
    let permits = Arc::new(Semaphore::new(0));
    tokio::spawn(read_lines(Arc::clone(&permits)));
    let slots = std::env::var("SLOTS")?.parse()?;
    // Unless a test wants it otherwise, nothing waits here beside what runs: what is delivered has begun.
    let prefetch = std::env::var("PREFETCH").map_or(Ok(0), |text| text.parse())?;
    let executor = Executor::new(&client, "tests").state(permits).slots(slots).prefetch(prefetch);
    executor.task(held).task(deadly).task(fails_twice).run().await?;
    tell("drained")?;
    // The reader of standard input would keep the runtime waiting.
    std::process::exit(0)
}
