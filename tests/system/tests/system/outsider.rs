//! An outsider: any NATS client, which knows no more of Jetlane than its subjects and headers.

use crate::waits::until_some;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::{self, Message};
use async_nats::{ConnectOptions, HeaderMap};
use bytes::Bytes;
use futures::StreamExt;
use jetlane_testkit::soon;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A connection of an outsider.
pub(crate) struct Outsider {
    pub(crate) client: async_nats::Client,
    pub(crate) jetstream: jetstream::Context,
    url: String,
}

impl Outsider {
    pub(crate) async fn connect(url: &str) -> Self {
        // Any client may send what a careful one refuses to.
        let client = ConnectOptions::new().skip_subject_validation(true).connect(url).await.expect("connects");
        Self { jetstream: jetstream::new(client.clone()), client, url: url.to_owned() }
    }

    /// Hears a subject from now on: the server, which reads what a connection sends in order, has answered what was
    /// sent after the subscription. A flush alone says only that the socket took it.
    pub(crate) async fn listen(&self, subject: impl Into<String>) -> async_nats::Subscriber {
        let heard = self.client.subscribe(subject.into()).await.expect("listens");
        self.round_trip().await;
        heard
    }

    /// Waits until what the server had for this connection before is here.
    pub(crate) async fn round_trip(&self) {
        let inbox = self.client.new_inbox();
        let mut echo = self.client.subscribe(inbox.clone()).await.expect("listens");
        self.client.publish(inbox, Bytes::new()).await.expect("sent");
        soon(echo.next()).await.expect("the server answers");
    }

    /// Publishes and waits until it is stored; its sequence, and whether it had been stored before.
    pub(crate) async fn publish(&self, subject: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> (u64, bool) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        let sent = self.jetstream.publish_with_headers(subject.to_owned(), map, body.into()).await.expect("sent");
        let ack = soon(sent.into_future()).await.expect("stored");
        (ack.sequence, ack.duplicate)
    }

    /// Announces a task type: one value under one key.
    pub(crate) async fn announce(&self, task_type: &str, json: &str) {
        let registry =
            until_some("there is a registry", async || self.jetstream.get_key_value("jetlane_registry").await.ok())
                .await;
        registry.put(format!("types.{task_type}"), json.to_owned().into()).await.expect("announced");
    }

    /// The first message that a stream holds, or comes to hold, under a subject.
    pub(crate) async fn first(&self, stream: &str, subject: &str) -> Message {
        let config = pull::OrderedConfig { filter_subject: subject.to_owned(), ..pull::OrderedConfig::default() };
        let stream = self.jetstream.get_stream(stream).await.expect("the stream is there");
        let consumer = stream.create_consumer(config).await.expect("can be read");
        let mut messages = consumer.messages().await.expect("can be read");
        soon(messages.next()).await.expect("goes on").expect("a message")
    }

    /// The completion of a task.
    pub(crate) async fn completion(&self, task_type: &str, id: &str) -> Message {
        self.first("JETLANE_DONE", &format!("jetlane.done.{task_type}.{id}")).await
    }

    /// The dead letter of a task.
    pub(crate) async fn dead_letter(&self, queue: &str, task_type: &str, id: &str) -> Message {
        self.first("JETLANE_DEAD", &format!("jetlane.dead.{queue}.{task_type}.{id}")).await
    }

    /// The consumer of a plain lane, once its queue is led.
    pub(crate) async fn lane(&self, queue: &str) -> PullConsumer {
        let name = format!("lane-{queue}-normal-any");
        until_some("the lane is there", async || {
            self.jetstream.get_consumer_from_stream(&name, "JETLANE_LANES").await.ok()
        })
        .await
    }

    /// Publishes with a header block of its own making, as no library would write it. Not stored
    /// for certain once this returns, but the server has it.
    pub(crate) async fn publish_bytes(&self, subject: &str, header_block: &[u8], body: &[u8]) {
        let address = self.url.trim_start_matches("nats://");
        let mut stream = BufReader::new(TcpStream::connect(address).await.expect("connects"));
        let (headers, total) = (header_block.len(), header_block.len() + body.len());
        let mut out = b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n".to_vec();
        out.extend_from_slice(format!("HPUB {subject} {headers} {total}\r\n").as_bytes());
        out.extend_from_slice(header_block);
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\nPING\r\n");
        stream.write_all(&out).await.expect("sent");
        let mut line = String::new();
        while line.trim() != "PONG" {
            line.clear();
            let read = soon(stream.read_line(&mut line)).await.expect("the server answers");
            assert!(read > 0 && !line.starts_with("-ERR"), "the server refused it: {line:?}");
        }
    }
}

/// A header's value; empty where there is none.
pub(crate) fn header<'a>(message: &'a Message, name: &str) -> &'a str {
    message.headers.as_ref().and_then(|headers| headers.get(name)).map_or("", |value| value.as_str())
}

/// The body as JSON.
pub(crate) fn json(message: &Message) -> serde_json::Value {
    serde_json::from_slice(&message.payload).expect("the body is JSON")
}
