//! What the door promises, against servers on this machine.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Answers every connection with the same bytes and tells what it was asked, until dropped.
async fn serve(answer: Vec<u8>) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let (asked, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read_buf(&mut head).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
            if asked.send(String::from_utf8_lossy(&head).into_owned()).is_err() {
                return;
            }
            // The client hangs up once it has enough.
            let _hung_up = stream.write_all(&answer).await;
        }
    });
    (url, requests)
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn client(policy: Policy) -> Client {
    Client::new(policy).expect("TLS can be set up")
}

#[tokio::test]
async fn a_body_of_exactly_the_cap_is_whole_and_a_longer_one_is_cut_visibly() {
    let (url, _requests) = serve(answer("200 OK", &vec![b'x'; BODY_BYTES_MAX])).await;
    let whole = client(Policy::AnyAddress).send(Request::new("GET", url)).await.expect("answered");
    assert_eq!((whole.status, whole.body.len(), whole.cut), (200, BODY_BYTES_MAX, false));

    let (url, _requests) = serve(answer("200 OK", &vec![b'x'; BODY_BYTES_MAX + 1])).await;
    let cut = client(Policy::AnyAddress).send(Request::new("GET", url)).await.expect("answered");
    assert_eq!((cut.body.len(), cut.cut), (BODY_BYTES_MAX, true));
    assert!(cut.text().ends_with(CUT_MARK));
}

#[tokio::test]
async fn an_endless_body_ends_at_the_cap() {
    let mut endless = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000000\r\n\r\n".to_vec();
    endless.resize(endless.len() + 4 * BODY_BYTES_MAX, b'x');
    let (url, _requests) = serve(endless).await;
    let response = client(Policy::AnyAddress).send(Request::new("GET", url)).await.expect("answered");
    assert_eq!((response.body.len(), response.cut), (BODY_BYTES_MAX, true));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (target, mut followed) = serve(answer("200 OK", b"secret")).await;
    for status in [301, 302, 303, 307, 308] {
        let (url, mut requests) = serve(answer(&format!("{status} Go\r\nlocation: {target}/secret"), b"")).await;
        let response = client(Policy::AnyAddress).send(Request::new("POST", url).body("x")).await.expect("answered");
        assert_eq!(response.status, status);
        assert_eq!(response.header("Location"), Some(format!("{target}/secret").as_str()));
        assert!(requests.recv().await.expect("asked").starts_with("POST / HTTP/1.1"));
    }
    assert!(followed.try_recv().is_err());
}

#[tokio::test]
async fn a_name_that_resolves_to_this_host_is_refused_at_connect_unless_the_policy_allows_it() {
    let (url, mut requests) = serve(answer("204 No Content", b"")).await;
    let named = url.replace("127.0.0.1", "localhost");
    for spelling in [named.clone(), named.replace("localhost", "LOCALHOST")] {
        let error = client(Policy::PublicOnly).send(Request::new("GET", spelling)).await.expect_err("loopback");
        assert!(matches!(&error, Error::Refused(refused) if refused.reason == "is loopback"), "{error:?}");
        assert!(error.is_permanent());
    }
    assert!(requests.try_recv().is_err());
    let response = client(Policy::AnyAddress).send(Request::new("GET", named)).await.expect("answered");
    assert_eq!(response.status, 204);
}

#[tokio::test]
async fn headers_and_body_arrive_as_given() {
    let (url, mut requests) = serve(answer("200 OK\r\nX-Answer: yes", b"ok")).await;
    let request = Request::new("PUT", format!("{url}/a?b=c")).header("X-One", "1").header("x-one", "2").body("body");
    let response = client(Policy::AnyAddress).send(request).await.expect("answered");
    assert_eq!((response.header("x-answer"), response.text().as_str()), (Some("yes"), "ok"));
    let asked = requests.recv().await.expect("asked");
    assert!(asked.starts_with("PUT /a?b=c HTTP/1.1\r\n"), "{asked}");
    for line in ["x-one: 1\r\n", "x-one: 2\r\n", "content-length: 4\r\n", "user-agent: jetlane/"] {
        assert!(asked.contains(line), "{asked} lacks {line:?}");
    }
}

#[tokio::test]
async fn a_request_that_could_smuggle_another_is_never_sent() {
    let (url, mut requests) = serve(answer("200 OK", b"")).await;
    let plain = || Request::new("GET", url.clone());
    for request in [
        plain().header("Host", "other.example"),
        plain().header("Content-Length", "1"),
        plain().header("transfer-encoding", "chunked"),
        plain().header("x", "a\r\nHost: b"),
        plain().header("x\r\ny", "a"),
        plain().header("", "a"),
        Request { method: "GET / HTTP/1.1\r\nx: y".into(), ..plain() },
        Request { method: "CONNECT".into(), ..plain() },
        Request { method: String::new(), ..plain() },
        Request { headers: vec![("x".into(), "y".into()); HEADERS_MAX + 1], ..plain() },
    ] {
        let error = client(Policy::AnyAddress).send(request).await.expect_err("malformed");
        assert!(matches!(error, Error::Invalid(_)) && error.is_permanent(), "{error:?}");
    }
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_after_the_requests_own_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let request = Request { timeout: Duration::from_millis(50), ..Request::new("GET", url) };
    let error = client(Policy::AnyAddress).send(request).await.expect_err("silent");
    assert!(matches!(error, Error::Timeout(_)) && !error.is_permanent(), "{error:?}");
}

#[tokio::test]
async fn a_closed_port_is_worth_a_retry_and_the_error_does_not_tell_the_query() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        listener.local_addr().expect("bound").port()
    };
    let request = Request::new("GET", format!("http://127.0.0.1:{port}/?token=hunter2"));
    let error = client(Policy::AnyAddress).send(request).await.expect_err("closed");
    assert!(matches!(error, Error::Send(_)) && !error.is_permanent(), "{error:?}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}
