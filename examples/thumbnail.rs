//! A task type, an executor, a submitter and a subscriber in one file.
//!
//! `jetlane dev` in one terminal, `cargo run -p jetlane-examples --example thumbnail` in another.

use jetlane::{Client, Ctx, Executor, Priority, State, Task, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, JsonSchema)]
struct Thumbnail {
    path: String,
    width: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Picture {
    place: String,
}

impl Task for Thumbnail {
    const TYPE: &'static str = "example.thumbnail";
    type Output = Picture;
}

#[derive(Clone)]
struct App {
    bucket: String,
}

async fn thumbnail(task: Thumbnail, ctx: Ctx, State(app): State<App>) -> Result<Picture, TaskError> {
    ctx.progress(50, "resizing").await?;
    Ok(Picture { place: format!("{}/{}-{}", app.bucket, task.width, task.path) })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".into());
    let client = Client::connect(url).await?;

    // A consumer service, queue `pictures`. Usually a process of its own.
    let app = App { bucket: "thumbnails".into() };
    let executor = Executor::new(&client, "pictures").state(app).slots(16).task(thumbnail);
    tokio::spawn(executor.run());

    // Subscribe to completions; "billing" keeps its place across restarts.
    let mut done = client.completions().of::<Thumbnail>().durable("billing").await?;

    let task = Thumbnail { path: "a.png".into(), width: 320 };
    let handle = client.submit(task).priority(Priority::High).await?; // accepted: stored by the broker
    let picture: Picture = handle.await?; // the promise
    println!("made {}", picture.place);

    if let Some(received) = done.next().await {
        let received = received?;
        println!("billed {} ({})", received.completion.id, received.completion.outcome);
        received.ack().await?;
    }
    Ok(())
}
