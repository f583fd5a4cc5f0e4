//! `http.request`: one HTTP request, through the guarded door and no other.

use jetlane::{Ctx, State, Task, TaskError, TaskOptions};
use jetlane_service::egress::{Error, Request, TIMEOUT};
use jetlane_service::frame::one_line;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::App;

/// The header that carries the task's id where the task has none of that name: a repeated attempt is
/// then known by a receiver that looks for it.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest pause that a server may ask for before the next attempt: a day, as for callbacks. A
/// shorter bound would send the next request sooner than the server asked.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Send one HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpRequest {
    /// The method. Default `GET`.
    #[serde(default = "get")]
    pub method: String,
    /// Where to: https or http, by default only to addresses of the public internet.
    pub url: String,
    /// Headers by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body. Default none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// How long it may take, in milliseconds. Default 15,000, at most 300,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 300_000))]
    pub timeout_ms: Option<u64>,
}

fn get() -> String {
    "GET".into()
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpAnswer {
    /// The status. 5xx and 429 are never here: they are retried.
    pub status: u16,
    /// Headers by name in lower case; values of one name are joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// The body as text, at most 64 KiB.
    pub body: String,
    /// Whether the body was longer; its text then ends with a mark.
    pub cut: bool,
}

impl Task for HttpRequest {
    const TYPE: &'static str = "http.request";
    type Output = HttpAnswer;

    fn options() -> TaskOptions {
        TaskOptions { timeout: Duration::from_secs(330), ..TaskOptions::default() }
    }
}

/// Sends the request. A status of 5xx or 429 and a failed connection are worth another attempt; any
/// other status is an answer; a forbidden address fails for good.
pub(crate) async fn request(task: HttpRequest, ctx: Ctx, State(app): State<App>) -> Result<HttpAnswer, TaskError> {
    let id = ctx.id().to_string();
    tokio::select! {
        answer = perform(task, &id, &app) => answer,
        () = ctx.cancelled() => Err(TaskError::cancelled()),
    }
}

async fn perform(task: HttpRequest, id: &str, app: &App) -> Result<HttpAnswer, TaskError> {
    let timeout = task.timeout_ms.map_or(TIMEOUT, Duration::from_millis);
    let mut request = Request { timeout, ..Request::new(task.method, task.url) }.body(task.body);
    if !task.headers.keys().any(|name| name.eq_ignore_ascii_case(IDEMPOTENCY_KEY)) {
        request = request.header(IDEMPOTENCY_KEY, id);
    }
    for (name, value) in task.headers {
        request = request.header(name, value);
    }
    let response = app.http.send(request).await.map_err(|error| refusal(&error))?;
    if response.status >= 500 || response.status == 429 {
        let status = format!("the server answered with status {}", response.status);
        return Err(match response.retry_after(SystemTime::now()).map(|pause| pause.min(RETRY_AFTER_MAX)) {
            Some(pause) => TaskError::retry_after(pause, status),
            None => TaskError::retry(status),
        });
    }
    let (status, cut, body) = (response.status, response.cut, response.text());
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in response.headers {
        headers.entry(name).and_modify(|joined| *joined = format!("{joined}, {value}")).or_insert(value);
    }
    Ok(HttpAnswer { status, headers, body, cut })
}

fn refusal(error: &Error) -> TaskError {
    let text = one_line(error);
    match error {
        Error::Refused(_) => TaskError::permanent("refused", text).at("/url"),
        error if error.is_permanent() => TaskError::permanent("request", text),
        _ => TaskError::retry(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_service::egress::Policy;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    /// Answers one request; its end is what was asked.
    async fn serve(answer: &'static str) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut asked = Vec::new();
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut asked).await.expect("readable"), 0, "the request was cut");
            }
            stream.write_all(answer.as_bytes()).await.expect("writable");
            String::from_utf8(asked).expect("text")
        });
        (url, served)
    }

    fn task(url: &str) -> HttpRequest {
        serde_json::from_value(serde_json::json!({ "url": url })).expect("a URL is enough")
    }

    fn app(policy: Policy) -> App {
        App::new(policy).expect("HTTP can be spoken")
    }

    #[tokio::test]
    async fn an_answer_comes_back_whole_and_the_request_carries_the_tasks_id() {
        let reply = "HTTP/1.1 404 No\r\nX-A: 1\r\nx-a: 2\r\ncontent-length: 4\r\nconnection: close\r\n\r\ngone";
        let (url, served) = serve(reply).await;
        let mut asking = task(&url);
        asking.headers.insert("X-User".into(), "ada".into());
        let answer = perform(asking, "t1", &app(Policy::AnyAddress)).await.expect("a 404 is an answer");
        assert_eq!((answer.status, answer.body.as_str(), answer.cut), (404, "gone", false));
        assert_eq!(answer.headers["x-a"], "1, 2");
        let asked = served.await.expect("served");
        assert!(asked.starts_with("GET / HTTP/1.1"), "{asked}");
        assert!(asked.contains("idempotency-key: t1\r\n") && asked.contains("x-user: ada\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn a_servers_fault_is_worth_another_attempt_after_the_time_it_asks_for() {
        let closed = "content-length: 0\r\nconnection: close\r\n\r\n";
        let cases: [(&'static str, TaskError); 4] = [
            ("500 No", TaskError::retry("the server answered with status 500")),
            (
                "503 No\r\nretry-after: 7",
                TaskError::retry_after(Duration::from_secs(7), "the server answered with status 503"),
            ),
            (
                // By the server's own clock, wherever ours stands.
                "503 No\r\ndate: Tue, 14 Nov 2023 22:13:20 GMT\r\nretry-after: Tue, 14 Nov 2023 22:13:28 GMT",
                TaskError::retry_after(Duration::from_secs(8), "the server answered with status 503"),
            ),
            (
                "429 No\r\nretry-after: 99999999999999999999999",
                TaskError::retry_after(RETRY_AFTER_MAX, "the server answered with status 429"),
            ),
        ];
        for (head, expected) in cases {
            let reply: &'static str = Box::leak(format!("HTTP/1.1 {head}\r\n{closed}").into_boxed_str());
            let (url, _served) = serve(reply).await;
            let error = perform(task(&url), "t1", &app(Policy::AnyAddress)).await.expect_err(head);
            assert_eq!(error, expected);
        }
    }

    #[tokio::test]
    async fn a_forbidden_address_and_a_malformed_request_fail_for_good_and_a_closed_port_does_not() {
        let url = {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            format!("http://{}/", listener.local_addr().expect("bound"))
        };
        let refused = perform(task(&url), "t1", &app(Policy::PublicOnly)).await.expect_err("loopback");
        assert_eq!((refused.failure().code.as_str(), refused.failure().path.as_deref()), ("refused", Some("/url")));
        let mut asking = task(&url);
        asking.headers.insert("Host".into(), "elsewhere".into());
        let malformed = perform(asking, "t1", &app(Policy::AnyAddress)).await.expect_err("a framing header");
        assert_eq!(malformed.failure().code, "request");
        let closed = perform(task(&url), "t1", &app(Policy::AnyAddress)).await.expect_err("a closed port");
        assert_eq!(closed, TaskError::retry(&closed.failure().message));
    }
}
