//! `/livez` and `/readyz`, for whoever restarts processes and sends them work.
//!
//! `/livez` answers 200 as long as the process can answer at all; `/readyz` 200 only while the service
//! says that it is ready, otherwise 503 and why. Plain text. Deliberately absent: metrics and control.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Probes at one time; one more waits in the system's queue.
const CONNECTIONS_MAX: usize = 32;
/// How long one probe may take.
const PROBE_TIME_MAX: Duration = Duration::from_secs(5);

/// Whether a process should be sent work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not yet.
    Starting,
    /// Yes.
    Ready,
    /// Not now, and why: `NATS is not connected`.
    NotReady(String),
    /// No more: it finishes what it has. Nothing follows on this.
    Draining,
}

/// What a service says of its own health. Clones say it for the same process.
#[derive(Debug, Clone)]
pub struct Health {
    state: watch::Sender<State>,
}

impl Default for Health {
    fn default() -> Self {
        Self { state: watch::Sender::new(State::Starting) }
    }
}

impl Health {
    /// It can be sent work.
    pub fn ready(&self) {
        self.set(State::Ready);
    }

    /// It should not be sent work for now.
    pub fn not_ready(&self, why: impl Into<String>) {
        self.set(State::NotReady(why.into()));
    }

    /// It finishes what it has, and ends.
    pub fn draining(&self) {
        self.set(State::Draining);
    }

    /// What was said last.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    fn set(&self, state: State) {
        self.state.send_if_modified(|now| {
            let changes = *now != State::Draining && *now != state;
            if changes {
                *now = state;
            }
            changes
        });
    }
}

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
        let response = respond(request.method(), request.uri().path(), &health.state());
        async move { Ok::<_, Infallible>(response) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PROBE_TIME_MAX).keep_alive(false);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "A health probe broke off.");
    }
}

fn respond(method: &Method, path: &str, state: &State) -> Response<Full<Bytes>> {
    let (status, text) = match (method, path, state) {
        (&Method::GET | &Method::HEAD, "/livez", _) => (StatusCode::OK, "alive"),
        (&Method::GET | &Method::HEAD, "/readyz", State::Ready) => (StatusCode::OK, "ready"),
        (&Method::GET | &Method::HEAD, "/readyz", State::Starting) => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
        (&Method::GET | &Method::HEAD, "/readyz", State::Draining) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (&Method::GET | &Method::HEAD, "/readyz", State::NotReady(why)) => {
            (StatusCode::SERVICE_UNAVAILABLE, why.as_str())
        }
        (_, "/livez" | "/readyz", _) => (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD"),
        _ => (StatusCode::NOT_FOUND, "only /livez and /readyz"),
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
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
    async fn a_process_is_alive_at_once_and_ready_when_it_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let health = Health::default();
        let probes = async {
            let is = |status: u16, text: &str| (status, text.to_owned());
            assert_eq!(ask(port, "GET /livez").await, is(200, "alive"));
            assert_eq!(ask(port, "GET /readyz").await, is(503, "starting"));
            health.ready();
            assert_eq!(ask(port, "GET /readyz?verbose").await, is(200, "ready"));
            health.not_ready("NATS is not connected");
            assert_eq!(ask(port, "GET /readyz").await, is(503, "NATS is not connected"));
            assert_eq!(ask(port, "POST /readyz").await, is(405, "only GET and HEAD"));
            assert_eq!(ask(port, "GET /metrics").await.0, 404);
        };
        tokio::select! {
            () = serve(listener, health.clone()) => unreachable!("it serves until it is dropped"),
            () = probes => {}
        }
    }

    #[test]
    fn nothing_follows_on_draining() {
        let health = Health::default();
        health.clone().draining();
        health.ready();
        health.not_ready("late");
        assert_eq!(health.state(), State::Draining);
    }
}
