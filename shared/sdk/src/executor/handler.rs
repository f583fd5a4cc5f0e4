//! Plain functions as handlers: the first argument is the task, the others are extracted.

use super::context::{Attempt, Ctx, State};
use super::service::{TaskReply, TaskRequest, TaskService};
use crate::task::{Kind, Task, TaskError};
use futures::FutureExt;
use futures::future::BoxFuture;
use jetlane_schemas::{Headers, TaskEvent};
use std::future::Future;
use std::sync::Arc;

/// What extractors are made from.
#[derive(Debug)]
pub struct Seed<'a, S> {
    /// The task.
    pub task: &'a TaskEvent,
    /// Its context.
    pub ctx: &'a Ctx,
    /// The executor's state.
    pub state: &'a S,
}

/// The result of an extraction.
pub type Extracted<T> = Result<T, TaskError>;

/// An argument of a handler beside the task itself.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler",
    note = "a handler takes the task first, then any of Ctx, State<S>, Headers, Attempt, or a type that implements FromTask<S>"
)]
pub trait FromTask<S>: Sized + Send {
    /// Makes the argument.
    ///
    /// # Errors
    /// What makes this attempt fail.
    fn from_task(seed: &Seed<'_, S>) -> Extracted<Self>;
}

impl<S> FromTask<S> for Ctx {
    fn from_task(seed: &Seed<'_, S>) -> Extracted<Self> {
        Ok(seed.ctx.clone())
    }
}

impl<S: Clone + Send> FromTask<S> for State<S> {
    fn from_task(seed: &Seed<'_, S>) -> Extracted<Self> {
        Ok(Self(seed.state.clone()))
    }
}

impl<S> FromTask<S> for Attempt {
    fn from_task(seed: &Seed<'_, S>) -> Extracted<Self> {
        Ok(Self(seed.ctx.attempt()))
    }
}

impl<S> FromTask<S> for Headers {
    fn from_task(seed: &Seed<'_, S>) -> Extracted<Self> {
        Ok(seed.task.headers.clone().into())
    }
}

/// A function that runs tasks of one type: `async fn(Task, extractors...) -> Result<Output, TaskError>`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    note = "a handler is an async fn whose first argument is a Task, whose others are extractors, and that returns Result<Task::Output, TaskError>"
)]
pub trait Handler<S, T: Task, Args>: Clone + Send + Sync + 'static {
    /// Runs one task.
    fn call(&self, task: T, seed: Seed<'_, S>) -> BoxFuture<'static, Result<T::Output, TaskError>>;
}

macro_rules! handler {
    ($($extractor:ident),*) => {
        impl<S, F, Fut, T, $($extractor,)*> Handler<S, T, ($($extractor,)*)> for F
        where
            F: Fn(T, $($extractor,)*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Result<T::Output, TaskError>> + Send + 'static,
            T: Task,
            $($extractor: FromTask<S> + 'static,)*
        {
            #[allow(unused_variables, non_snake_case, reason = "one macro for handlers of every arity")]
            fn call(&self, task: T, seed: Seed<'_, S>) -> BoxFuture<'static, Result<T::Output, TaskError>> {
                $(
                    let $extractor = match $extractor::from_task(&seed) {
                        Ok(argument) => argument,
                        Err(error) => return std::future::ready(Err(error)).boxed(),
                    };
                )*
                (self)(task, $($extractor,)*).boxed()
            }
        }
    };
}

handler!();
handler!(E1);
handler!(E1, E2);
handler!(E1, E2, E3);
handler!(E1, E2, E3, E4);
handler!(E1, E2, E3, E4, E5);
handler!(E1, E2, E3, E4, E5, E6);

/// A function that blocks its thread.
#[derive(Clone)]
pub(crate) struct Blocking<F>(pub(crate) F);

/// What marks a blocking function apart from an async one.
pub(crate) struct BlockingArgs;

impl<S, F, T> Handler<S, T, BlockingArgs> for Blocking<F>
where
    F: Fn(T, Ctx) -> Result<T::Output, TaskError> + Clone + Send + Sync + 'static,
    T: Task,
{
    fn call(&self, task: T, seed: Seed<'_, S>) -> BoxFuture<'static, Result<T::Output, TaskError>> {
        let (work, ctx) = (self.0.clone(), seed.ctx.clone());
        let span = tracing::Span::current();
        // Its slot is free when its thread is: a function that blocks goes on after its time is up.
        let (free, thread) = tokio::sync::oneshot::channel();
        ctx.occupies(thread);
        async move {
            let ended = tokio::task::spawn_blocking(move || {
                let _occupied: tokio::sync::oneshot::Sender<()> = free;
                span.in_scope(|| work(task, ctx))
            })
            .await;
            match ended {
                Ok(result) => result,
                Err(join) => match join.try_into_panic() {
                    // Caught once more where the attempt is run, like any handler's.
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Err(TaskError::retry("the runtime ended while the handler ran")),
                },
            }
        }
        .boxed()
    }
}

/// Makes a handler a service: reads the task, calls it, writes the output.
pub(crate) fn erase<H, S, T, Args>(handler: H, state: S) -> TaskService
where
    H: Handler<S, T, Args>,
    S: Clone + Send + Sync + 'static,
    T: Task,
    Args: 'static,
{
    let shared = Arc::new((handler, state));
    TaskService::new(tower::service_fn(move |request: TaskRequest| {
        let shared = Arc::clone(&shared);
        async move {
            let (handler, state) = &*shared;
            let task = read::<T>(&request.task.payload)?;
            let seed = Seed { task: &request.task, ctx: &request.ctx, state };
            let output = handler.call(task, seed).await?;
            let output = serde_json::to_vec(&output)
                .map_err(|error| TaskError::permanent("output", format!("the output is no JSON: {error}")))?;
            Ok(TaskReply { output })
        }
    }))
}

fn read<T: Task>(payload: &[u8]) -> Result<T, TaskError> {
    crate::json::read(payload).map_err(|error| {
        let pointer = pointer(&error.path().to_string());
        TaskError::with_code(Kind::Permanent, "payload", error.inner().to_string()).at(pointer)
    })
}

/// A dotted path as a JSON Pointer (RFC 6901).
fn pointer(path: &str) -> String {
    if path == "." {
        return String::new();
    }
    let dotted = path.replace('[', ".").replace(']', "");
    dotted.split('.').filter(|part| !part.is_empty()).map(|part| format!("/{part}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_json_pointer() {
        assert_eq!(pointer("items[2].name"), "/items/2/name");
        assert_eq!(pointer("."), "");
    }
}
