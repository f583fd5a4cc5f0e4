//! Bodies in bincode. Handlers of the SDK read JSON, so that a layer reads these, and runs the task itself.

use super::noop::{Noop, Runs, noop};
use crate::output::{Exit, Failure};
use jetlane::{Executor, PayloadCodec, State, TaskError, TaskReply, TaskRequest, TaskService};
use tower::Service as _;
use tower::layer::layer_fn;

/// A body as this codec writes it.
pub(super) fn encode(task: &Noop, codec: PayloadCodec) -> Result<Vec<u8>, Failure> {
    match codec {
        PayloadCodec::Json => serde_json::to_vec(task).map_err(|error| Failure::of(Exit::Error, &error)),
        PayloadCodec::Bincode => {
            bincode::encode_to_vec(task, bincode::config::standard()).map_err(|error| Failure::of(Exit::Error, &error))
        }
    }
}

/// The executor, which now also reads bodies in bincode.
pub(super) fn read_by(executor: Executor<Runs>, runs: &Runs) -> Executor<Runs> {
    let runs = runs.clone();
    executor.layer(layer_fn(move |handler: TaskService| {
        let runs = runs.clone();
        tower::service_fn(move |request: TaskRequest| {
            let (mut handler, runs) = (handler.clone(), runs.clone());
            async move {
                match request.task.codec {
                    PayloadCodec::Json => handler.call(request).await,
                    PayloadCodec::Bincode => run(&request.task.payload, runs).await,
                }
            }
        })
    }))
}

async fn run(body: &[u8], runs: Runs) -> Result<TaskReply, TaskError> {
    let (task, _read) = bincode::decode_from_slice::<Noop, _>(body, bincode::config::standard())?;
    let output = serde_json::to_vec(&noop(task, State(runs)).await?)?;
    Ok(TaskReply { output })
}

#[cfg(test)]
mod tests {
    use super::super::noop::Counts;
    use super::*;

    #[tokio::test]
    async fn a_body_in_bincode_is_run_and_counted() {
        let runs = Runs::new();
        let body = encode(&Noop::new(7, 200), PayloadCodec::Bincode).expect("encodes");
        assert_eq!(run(&body, runs.clone()).await.expect("runs").output, b"7");
        assert_eq!(runs.counts(), Counts { tasks: 1, beyond_one: 0 });
        assert!(run(b"\xff", runs).await.is_err());
    }
}
