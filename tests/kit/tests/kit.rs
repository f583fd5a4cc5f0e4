//! The kit does what its first page says.
#![allow(missing_docs, reason = "the names of tests are their documents")]

use jetlane::{Executor, Task, TaskError};
use jetlane_testkit::{Kit, soon};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, JsonSchema)]
struct Greet {
    name: String,
}

impl Task for Greet {
    const TYPE: &'static str = "demo.greet";
    type Output = String;
}

async fn greet(task: Greet) -> Result<String, TaskError> {
    Ok(format!("hello {}", task.name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_is_tested_in_three_lines() {
    let kit = Kit::start().await;
    kit.serve(Executor::new(kit.client(), "greeters").task(greet));
    let handle = kit.client().submit(Greet { name: "Ada".into() }).await.expect("accepted");
    assert_eq!(soon(handle.into_future()).await.expect("succeeded"), "hello Ada");
}
