//! Whether anybody listens where traces are sent.

use super::Check;
use std::time::Duration;
use tokio::net::TcpStream;
use url::Url;

/// What says where traces go, the more special first.
const VARIABLES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// How long a connection may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);

const OTLP: &str = "otlp";

/// Connects to the endpoint, where one is set.
pub(super) async fn check() -> Check {
    let said = |name: &'static str| std::env::var(name).ok().map(|text| (name, text.trim().to_owned()));
    match VARIABLES.into_iter().filter_map(said).find(|(_, text)| !text.is_empty()) {
        None => Check::ok(OTLP, format!("{} is not set: no traces are sent", VARIABLES[1])),
        Some((variable, endpoint)) => reach(variable, &endpoint).await,
    }
}

async fn reach(variable: &str, endpoint: &str) -> Check {
    let url = Url::parse(endpoint).ok();
    let place = url.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
    let Some((host, port)) = place else {
        let help = "Set it to a URL such as http://127.0.0.1:4317 (gRPC) or http://127.0.0.1:4318 (HTTP).";
        return Check::fail(OTLP, format!("{variable} is no URL with a host and a port"), help);
    };
    // A URL writes an IPv6 address in brackets, a connection does not.
    let connect = TcpStream::connect((host.trim_matches(['[', ']']), port));
    let why = match tokio::time::timeout(CONNECT_TIME_MAX, connect).await {
        Ok(Ok(_)) => return Check::ok(OTLP, format!("{host}:{port} takes connections")),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", CONNECT_TIME_MAX.as_secs()),
    };
    let help = format!("Start the collector or Jaeger there, or correct {variable}.");
    Check::fail(OTLP, format!("{host}:{port} cannot be reached: {why}"), help)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[tokio::test]
    async fn an_endpoint_is_reached_or_told_why_it_is_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().expect("bound"));
        assert_eq!(reach(VARIABLES[0], &endpoint).await.state, State::Ok);
        drop(listener);
        let closed = reach(VARIABLES[0], &endpoint).await;
        assert_eq!(closed.state, State::Fail);
        assert!(closed.detail.contains("cannot be reached"), "{}", closed.detail);
        assert_eq!(reach(VARIABLES[0], "collector:4317").await.state, State::Fail);
    }
}
