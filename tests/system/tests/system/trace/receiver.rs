//! Takes spans as any collector does: OTLP over HTTP, protobuf, on a free port.

use super::span::{self, Span};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Where exporters send traces, below the endpoint that they are told.
const PATH: &str = "/v1/traces";
const PROTOBUF: &str = "application/x-protobuf";

/// A receiver of spans; it ends when it is dropped.
pub(super) struct Receiver {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Span>>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let taken = Arc::default();
        let serving = tokio::spawn(serve(listener, Arc::clone(&taken)));
        Self { address, taken, serving }
    }

    /// What to set OTEL_EXPORTER_OTLP_ENDPOINT to.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that has come.
    pub(super) fn spans(&self) -> Vec<Span> {
        self.taken.lock().expect("nobody panics while holding the list").clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, taken: Arc<Mutex<Vec<Span>>>) {
    loop {
        let (stream, _) = listener.accept().await.expect("connections are accepted");
        let taken = Arc::clone(&taken);
        tokio::spawn(async move {
            let service = service_fn(move |request| take(request, Arc::clone(&taken)));
            if let Err(error) =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
            {
                eprintln!("receiver: {error}");
            }
        });
    }
}

/// Answers as the protocol says: an export that was taken whole gets an empty message.
async fn take(request: Request<Incoming>, taken: Arc<Mutex<Vec<Span>>>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let is_export = request.method() == Method::POST
        && request.uri().path() == PATH
        && request.headers().get(CONTENT_TYPE).is_some_and(|given| given == PROTOBUF);
    let body = request.into_body().collect().await;
    let export = body.ok().and_then(|body| ExportTraceServiceRequest::decode(body.to_bytes()).ok());
    let status = match export.filter(|_| is_export) {
        Some(export) => {
            taken.lock().expect("nobody panics while holding the list").extend(span::of_export(export));
            StatusCode::OK
        }
        None => StatusCode::BAD_REQUEST,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PROTOBUF.parse().expect("a valid header"));
    Ok(response)
}
