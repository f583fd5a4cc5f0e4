//! The HTTP server that answers probes.

use super::{Health, Readiness};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Probes at one time; one more waits in the system's queue.
const CONNECTIONS_MAX: usize = 32;
/// How long one probe may take.
const PROBE_TIME_MAX: Duration = Duration::from_secs(5);

/// Answers probes until it is dropped.
pub async fn serve(listener: TcpListener, health: Health) {
    let mut probes = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if probes.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    probes.spawn(tokio::time::timeout(PROBE_TIME_MAX, answer(stream, health.clone())));
                }
                // Such as too many open files: passes, but not at once.
                Err(error) => {
                    tracing::warn!(%error, "A health probe could not be accepted.");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = probes.join_next() => {}
        }
    }
}

async fn answer(stream: TcpStream, health: Health) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), &health);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PROBE_TIME_MAX).keep_alive(false);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "A health probe broke off.");
    }
}

fn respond(method: &Method, path: &str, health: &Health) -> Response<Full<Bytes>> {
    let (status, text) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/livez") => livez(health),
        (&Method::GET | &Method::HEAD, "/readyz") => readyz(health),
        (_, "/livez" | "/readyz") => (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD".into()),
        _ => (StatusCode::NOT_FOUND, "only /livez and /readyz".into()),
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
}

fn livez(health: &Health) -> (StatusCode, String) {
    let stalled = health.stalled();
    if stalled.is_empty() {
        return (StatusCode::OK, "alive".into());
    }
    (StatusCode::SERVICE_UNAVAILABLE, stalled.join("\n"))
}

fn readyz(health: &Health) -> (StatusCode, String) {
    match health.readiness() {
        Readiness::Ready => (StatusCode::OK, "ready".into()),
        Readiness::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting".into()),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining".into()),
        Readiness::NotReady(unmet) => {
            let lines: Vec<String> = unmet.iter().map(ToString::to_string).collect();
            (StatusCode::SERVICE_UNAVAILABLE, lines.join("\n"))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(port: u16, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.trim().to_owned())
    }

    #[tokio::test]
    async fn probe_tells_every_reason_why_a_process_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let health = Health::default();
        let probes = async {
            let is = |status: u16, text: &str| (status, text.to_owned());
            assert_eq!(ask(port, "GET /livez").await, is(200, "alive"));
            assert_eq!(ask(port, "GET /readyz").await, is(503, "starting"));
            let broker = health.outside_condition("broker", "not connected to NATS");
            let lanes = health.condition("lanes", "none is pulled");
            assert_eq!(ask(port, "GET /readyz").await, is(503, "broker: not connected to NATS\nlanes: none is pulled"));
            broker.meet();
            lanes.meet();
            assert_eq!(ask(port, "GET /readyz?verbose").await, is(200, "ready"));
            assert_eq!(ask(port, "POST /readyz").await, is(405, "only GET and HEAD"));
            assert_eq!(ask(port, "GET /metrics").await.0, 404);
            let _beat = health.heartbeat("run loop", Duration::ZERO);
            // Older than a bound of nothing.
            while ask(port, "GET /livez").await.0 == 200 {}
            assert!(ask(port, "GET /livez").await.1.contains("run loop: no sign of life"));
            health.draining();
            assert_eq!(ask(port, "GET /readyz").await, is(503, "draining"));
            assert_eq!(ask(port, "GET /livez").await, is(200, "alive"));
        };
        tokio::select! {
            () = serve(listener, health.clone()) => unreachable!("it serves until it is dropped"),
            () = probes => {}
        }
    }
}
