//! Guarded outgoing HTTP: webhooks and the `http.request` task leave the house by this door alone.
//!
//! An address is checked twice: as it stands in the URL, and as its name resolves at the moment of
//! the connection (a name that resolves to a public address first and to a private one later gains
//! nothing). Deliberately absent: redirects, proxies from the environment, cookies, compression.

mod address;
mod lookup;
mod retry_after;

pub use address::{Policy, Refused, check_resolved, parse, why_not_public};

use lookup::Lookups;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use std::error::Error as StdError;
use std::time::Duration;
use tracing::warn;

/// How long a request may take, from the look-up of its name to the last byte of the answer.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest time that a request may ask for instead.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// How long the connection alone may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most of an answer's body that is read, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// The most headers of an answer that are kept, and the most that a request may have.
pub const HEADERS_MAX: usize = 64;
/// What [`Response::text`] puts where a body was cut.
pub const CUT_MARK: &str = " … (cut)";
/// Idle connections kept to one host; deliveries to an endpoint come in bursts.
const IDLE_PER_HOST_MAX: usize = 4;
const USER_AGENT: &str = concat!("jetlane/", env!("CARGO_PKG_VERSION"));

/// Why a request was not sent, or was not answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The destination is forbidden: never sent, and no retry will help.
    #[error("refused to send")]
    Refused(#[source] Refused),
    /// The request is malformed: never sent, and no retry will help.
    #[error("{0}")]
    Invalid(String),
    /// No answer within the time allowed.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The connection or the transfer failed.
    #[error("could not send")]
    Send(#[source] Box<dyn StdError + Send + Sync>),
    /// The client could not be made.
    #[error("could not prepare the HTTP client")]
    Prepare(#[source] Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// Whether the same request would fail the same way again.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Invalid(_) | Self::Prepare(_))
    }
}

/// A request to send.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method: `GET`, `POST`, ...
    pub method: String,
    /// Where to: http or https.
    pub url: String,
    /// Headers in order; framing headers such as `host` and `content-length` are refused.
    pub headers: Vec<(String, String)>,
    /// The body; empty for none.
    pub body: Vec<u8>,
    /// How long it may take, at most [`TIMEOUT_MAX`].
    pub timeout: Duration,
}

impl Request {
    /// A request without headers and body, with [`TIMEOUT`] to be answered.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: TIMEOUT }
    }

    /// The same with one more header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same with this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Its headers in order, names in lower case, at most [`HEADERS_MAX`].
    pub headers: Vec<(String, String)>,
    /// Its body, at most [`BODY_BYTES_MAX`] bytes.
    pub body: Vec<u8>,
    /// Whether the body was longer.
    pub cut: bool,
}

impl Response {
    /// The first value of a header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text, with [`CUT_MARK`] at its end where it was cut.
    pub fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.body).into_owned();
        if self.cut {
            text.push_str(CUT_MARK);
        }
        text
    }
}

/// Sends requests under one policy. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    policy: Policy,
}

impl Client {
    /// A client under this policy, with connections of its own: none is shared between policies.
    ///
    /// # Errors
    /// [`Error::Prepare`] where TLS cannot be set up.
    pub fn new(policy: Policy) -> Result<Self, Error> {
        // Refused only where one is installed already, which serves as well.
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let http = builder(policy).build().or_else(|error| {
            // A bare container has no certificates. Plain http still works there, and https says why it does not.
            warn!(%error, "The system has no certificate authorities: https requests will fail.");
            builder(policy).tls_certs_only([]).build()
        });
        http.map(|http| Self { http, policy }).map_err(|e| Error::Prepare(e.into()))
    }

    /// Sends a request and reads the answer, whatever its status: a redirect is an answer like any other.
    ///
    /// # Errors
    /// [`Error::Refused`] and [`Error::Invalid`] before anything is sent; [`Error::Timeout`] and
    /// [`Error::Send`] after, so that the receiver may have seen the request.
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        let limit = request.timeout.min(TIMEOUT_MAX);
        let ready = self.prepare(request)?;
        // The limit holds for the answer's body too, which a slow sender could draw out for ever.
        match tokio::time::timeout(limit, self.exchange(ready)).await {
            Ok(answered) => answered,
            Err(_) => Err(Error::Timeout(limit)),
        }
    }

    fn prepare(&self, request: Request) -> Result<reqwest::Request, Error> {
        let url = parse(&request.url, self.policy).map_err(Error::Refused)?;
        let method = reqwest::Method::from_bytes(request.method.as_bytes())
            .ok()
            .filter(|method| !matches!(*method, reqwest::Method::CONNECT | reqwest::Method::TRACE))
            .ok_or_else(|| invalid("method", &request.method, "is no method to send"))?;
        let mut ready = reqwest::Request::new(method, url);
        *ready.headers_mut() = headers(&request.headers)?;
        if !request.body.is_empty() {
            *ready.body_mut() = Some(request.body.into());
        }
        Ok(ready)
    }

    async fn exchange(&self, request: reqwest::Request) -> Result<Response, Error> {
        let mut answer = self.http.execute(request).await.map_err(failed)?;
        let headers = answer
            .headers()
            .iter()
            .take(HEADERS_MAX)
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let status = answer.status().as_u16();
        let (mut body, mut cut) = (Vec::new(), false);
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            let room = BODY_BYTES_MAX - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                cut = true;
                break;
            }
        }
        Ok(Response { status, headers, body, cut })
    }
}

fn builder(policy: Policy) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        // Other crates of a build may switch decompression on; a small body must not grow here.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
        .dns_resolver(Guard { policy, lookups: Lookups::default() })
}

/// Resolves names for connections and hands out nothing that the policy forbids.
#[derive(Debug, Clone)]
struct Guard {
    policy: Policy,
    lookups: Lookups,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, lookups) = (self.policy, self.lookups.clone());
        Box::pin(async move {
            let found = lookups.find(name.as_str()).await?;
            check_resolved(name.as_str(), &found, policy)?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Headers that frame the message or steer the connection: a task that set them could smuggle a
/// second request into the first, or name another virtual host than the one that was checked.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn headers(pairs: &[(String, String)]) -> Result<HeaderMap, Error> {
    if pairs.len() > HEADERS_MAX {
        return Err(Error::Invalid(format!("the request has more than {HEADERS_MAX} headers")));
    }
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        let key: HeaderName = name.parse().map_err(|_| invalid("header", name, "is no header name"))?;
        if FRAMING.contains(&key.as_str()) {
            return Err(invalid("header", name, "is set by the connection and cannot be chosen"));
        }
        let value: HeaderValue =
            value.parse().map_err(|_| invalid("header", name, "has a value with control characters"))?;
        map.append(key, value);
    }
    Ok(map)
}

fn invalid(part: &str, text: &str, reason: &str) -> Error {
    Error::Invalid(format!("{part} {:?} {reason}", text.chars().take(80).collect::<String>()))
}

/// A refusal by the resolver comes wrapped in several layers; all else is a failure to send. The URL
/// is left out of the error: its path and query may hold secrets.
fn failed(error: reqwest::Error) -> Error {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<Refused>() {
            return Error::Refused(refused.clone());
        }
        cause = inner.source();
    }
    Error::Send(error.without_url().into())
}

#[cfg(test)]
mod tests;
