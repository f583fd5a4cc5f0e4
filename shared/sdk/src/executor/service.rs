//! What a handler is to the executor and to tower layers: a service from a request to a reply.

use super::context::Ctx;
use crate::task::TaskError;
use futures::future::BoxFuture;
use jetlane_schemas::TaskEvent;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::Service;
use tower::util::BoxCloneSyncService;

/// One run of a task.
#[derive(Debug, Clone)]
pub struct TaskRequest {
    /// The task, with its body as the submitter sent it.
    pub task: Arc<TaskEvent>,
    /// What the handler can ask and tell.
    pub ctx: Ctx,
}

/// What a handler returned, as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskReply {
    /// The output.
    pub output: Vec<u8>,
}

/// A handler, and what layers make of it.
#[derive(Debug, Clone)]
pub struct TaskService(BoxCloneSyncService<TaskRequest, TaskReply, TaskError>);

impl TaskService {
    pub(crate) fn new<T>(service: T) -> Self
    where
        T: Service<TaskRequest, Response = TaskReply, Error = TaskError> + Clone + Send + Sync + 'static,
        T::Future: Send + 'static,
    {
        Self(BoxCloneSyncService::new(service))
    }
}

impl Service<TaskRequest> for TaskService {
    type Response = TaskReply;
    type Error = TaskError;
    type Future = BoxFuture<'static, Result<TaskReply, TaskError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TaskError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: TaskRequest) -> Self::Future {
        self.0.call(request)
    }
}
