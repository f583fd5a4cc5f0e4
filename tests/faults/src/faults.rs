//! Injects faults into a running soak, and writes each into the journal with whom it hit and how long.

use crate::journal::{Event, Expect, now_us};
use crate::plan::Fault;
use crate::proxy::Link;
use crate::roles::tasks::{Behaviour, Hard, PLAIN_QUEUE, QUEUE, Work};
use crate::stage::Stage;
use anyhow::Context as _;
use async_nats::HeaderMap;
use jetlane::Task;
use jetlane_schemas::{Fit, Shard, TaskId, header, subject};
use serde_json::json;
use std::time::Duration;

/// Whom a fault hit.
struct Hit {
    kind: &'static str,
    target: String,
    pids: Vec<u32>,
}

impl Hit {
    fn of(kind: &'static str, target: impl Into<String>, pids: Vec<u32>) -> Self {
        Self { kind, target: target.into(), pids }
    }
}

impl Stage {
    /// Injects a fault and waits until it is over.
    pub async fn inject(&self, fault: Fault) {
        let begin_us = now_us();
        let what = format!("{fault:?}");
        match self.carry_out(fault).await {
            Ok(Hit { kind, target, pids }) => {
                self.journal.write(Event::Fault { kind: kind.into(), target, pids, begin_us, end_us: now_us() });
            }
            Err(error) => self.trouble.lock().await.push(format!("{what}: {error:#}")),
        }
    }

    async fn carry_out(&self, fault: Fault) -> anyhow::Result<Hit> {
        Ok(match fault {
            Fault::Kill(name, down) => Hit::of("kill", name, self.process(name)?.kill(down).await),
            Fault::Stop(name, time) => Hit::of("stop", name, self.process(name)?.stop(time).await),
            Fault::Restart(name) => Hit::of("restart", name, self.process(name)?.restart().await?),
            Fault::RollingRestart => {
                let mut pids = Vec::new();
                for process in self.processes.values() {
                    pids.extend(process.restart().await?);
                }
                Hit::of("restart", "dispatcher and all others", pids)
            }
            Fault::Link(name, link, time) => {
                let pid = self.process(name)?.pid();
                let proxies = self.links.get(name).with_context(|| format!("no links of {name}"))?;
                proxies.iter().for_each(|proxy| proxy.set(link));
                tokio::time::sleep(time).await;
                proxies.iter().for_each(|proxy| proxy.set(Link::Up));
                Hit::of(link_name(link), name, pid.into_iter().collect())
            }
            Fault::ServerKill(number, down) => {
                self.servers.kill(number, down).await?;
                Hit::of("server-kill", number.to_string(), Vec::new())
            }
            Fault::ServerRestart(number) => {
                self.servers.restart(number).await?;
                Hit::of("server-restart", number.to_string(), Vec::new())
            }
            Fault::ServerFreeze(number, time) => {
                self.servers.freeze(number, time).await?;
                Hit::of("server-freeze", number.to_string(), Vec::new())
            }
            Fault::ServersKill(down) => {
                self.servers.kill_all(down).await?;
                Hit::of("server-kill-all", "all", Vec::new())
            }
            Fault::ServerWipe(number) => {
                self.servers.wipe(number).await?;
                Hit::of("server-wipe", number.to_string(), Vec::new())
            }
            Fault::LeaderKill(stream, down) => {
                let leader = self.admin.leader(stream).await?.unwrap_or_default();
                self.servers.kill_named(&leader, down).await?;
                Hit::of("server-kill-leader", stream, Vec::new())
            }
            Fault::StepDown(stream) => {
                self.admin.step_down(stream).await?;
                Hit::of("server-step-down", stream, Vec::new())
            }
            Fault::Duplicate => {
                self.duplicate().await?;
                Hit::of("duplicate", Work::TYPE, Vec::new())
            }
            Fault::Deadly => {
                let id = TaskId::generate().to_string();
                let marker = format!("{}{id}", crate::checker::DEADLY);
                let task = Hard { marker: marker.clone(), behaviour: Behaviour::Abort };
                self.submits(&marker, &id, Hard::TYPE, Expect::Failure);
                self.publish(&marker, &id, Hard::TYPE, &serde_json::to_vec(&task)?, &id).await?;
                Hit::of("deadly", Hard::TYPE, Vec::new())
            }
            Fault::Hostile => {
                self.hostile().await?;
                Hit::of("hostile", "all subjects", Vec::new())
            }
            Fault::DoneFull(time) => {
                self.done_full(time).await?;
                Hit::of("server-done-full", subject::STREAM_DONE, Vec::new())
            }
            Fault::ConsumerDelete => {
                let lane = format!("lane-{PLAIN_QUEUE}-normal-any");
                self.admin
                    .api(&format!("$JS.API.CONSUMER.DELETE.{}.{lane}", subject::STREAM_LANES), &json!({}))
                    .await?;
                Hit::of("server-consumer-delete", lane, Vec::new())
            }
            Fault::Load(time) => {
                let burners: Vec<_> = (0..4).map(|_| tokio::task::spawn_blocking(move || burn(time))).collect();
                for burner in burners {
                    burner.await?;
                }
                Hit::of("load", "processors", Vec::new())
            }
        })
    }

    fn submits(&self, marker: &str, id: &str, task_type: &str, expect: Expect) {
        self.journal.write(Event::Submit {
            marker: marker.to_owned(),
            id: Some(id.to_owned()),
            task_type: task_type.to_owned(),
            expect,
            retries: if task_type == Hard::TYPE { 1 } else { 3 },
            webhook: false,
        });
    }

    /// Publishes to the public intake until the stream has it.
    async fn publish(
        &self,
        marker: &str,
        id: &str,
        task_type: &str,
        body: &[u8],
        message_id: &str,
    ) -> anyhow::Result<()> {
        const TRIES_MAX: u32 = 30;
        let mut headers = HeaderMap::new();
        headers.insert(header::CE_ID, id);
        headers.insert("Nats-Msg-Id", message_id);
        let subject = subject::submit(&task_type.parse()?);
        for _ in 0..TRIES_MAX {
            let sent = async {
                let jetstream = &self.admin.jetstream;
                let sent =
                    jetstream.publish_with_headers(subject.clone(), headers.clone(), body.to_vec().into()).await?;
                sent.await
            };
            if let Ok(ack) = sent.await {
                let duplicate = ack.duplicate;
                self.journal.write(Event::Accept { marker: marker.to_owned(), id: id.to_owned(), duplicate });
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // Not acknowledged: nothing is owed.
        Ok(())
    }

    /// The same task three times, which the stream takes for three messages.
    async fn duplicate(&self) -> anyhow::Result<()> {
        let id = TaskId::generate().to_string();
        let marker = format!("twice-{id}");
        let task = Work { marker: marker.clone(), ms: 50, behaviour: Behaviour::Succeed };
        self.submits(&marker, &id, Work::TYPE, Expect::Success);
        for number in 0..3 {
            let message_id = format!("{id}-{number}");
            self.publish(&marker, &id, Work::TYPE, &serde_json::to_vec(&task)?, &message_id).await?;
        }
        Ok(())
    }

    /// Bytes that nobody should send, on every subject that anybody may reach.
    async fn hostile(&self) -> anyhow::Result<()> {
        // A body that is no task: it is told so.
        let id = format!("hostile-{}", TaskId::generate());
        self.submits(&id, &id, Work::TYPE, Expect::Rejection);
        self.publish(&id, &id, Work::TYPE, b"{\"marker\":1}", &id).await?;
        // Subjects of core NATS, which nobody stores.
        let bytes: [&[u8]; 4] = [b"", b"\0\xff\xfe{", b"{\"a\":[[[[", &[0x4a, 0x4c, 9, 255, 255, 1, 2, 3]];
        let some = TaskId::generate();
        let queue = QUEUE.parse()?;
        let task_type = Work::TYPE.parse()?;
        let subjects = [
            subject::credit(&queue),
            subject::credit_wanted(&queue),
            subject::ask(&queue),
            subject::yield_wanted(&queue),
            subject::progress(&task_type, &some),
            subject::cancel(&task_type, &some),
            subject::told(&task_type),
            format!("{}.@.x.1.told", subject::told(&task_type)),
        ];
        for subject in subjects {
            for body in bytes {
                let mut headers = HeaderMap::new();
                headers.insert("ce-id", "\u{7f}%ff");
                self.admin.client.publish_with_headers(subject.clone(), headers, body.to_vec().into()).await?;
            }
        }
        // Subjects of streams: what cannot be read is put aside, and nobody stands still for it.
        let bytes = [&b"\0\xff\xfe{"[..], b"{}", b"JL\x01\x01\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"];
        let (normal, any) = (jetlane_schemas::Priority::Normal, Fit::new("any")?);
        let subjects = [
            subject::task(&queue, normal, Shard::default()),
            subject::due(&queue, normal, Shard::default()),
            subject::bundle(&queue, normal, &any),
        ];
        for subject in subjects {
            for body in bytes {
                self.admin.client.publish(subject.clone(), body.to_vec().into()).await?;
            }
        }
        // A record that nobody owes to anybody.
        let id = format!("hostile-{}", TaskId::generate());
        self.submits(&id, &id, Work::TYPE, Expect::Anything);
        let done = subject::done(&task_type, &id.parse()?);
        self.admin.client.publish(done, b"\0\xff".to_vec().into()).await?;
        Ok(())
    }

    /// Limits DONE to what it holds: completions are refused for a time.
    async fn done_full(&self, time: Duration) -> anyhow::Result<()> {
        let stream = subject::STREAM_DONE;
        let info = self.admin.api(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await?;
        let mut config = info["config"].clone();
        config["max_bytes"] = info["state"]["bytes"].clone();
        let update = format!("$JS.API.STREAM.UPDATE.{stream}");
        let limited = self.admin.api(&update, &config).await?;
        anyhow::ensure!(limited["error"].is_null(), "DONE cannot be limited: {limited}");
        tokio::time::sleep(time).await;
        config["max_bytes"] = json!(-1);
        let freed = self.admin.api(&update, &config).await?;
        anyhow::ensure!(freed["error"].is_null(), "DONE cannot be freed: {freed}");
        Ok(())
    }
}

fn link_name(link: Link) -> &'static str {
    match link {
        Link::Up => "link-up",
        Link::Slow(_) => "link-slow",
        Link::Cut => "link-cut",
        Link::BlackHole => "link-black-hole",
        Link::HalfOpen => "link-half-open",
        Link::OnlyDown => "link-only-down",
        Link::OnlyUp => "link-only-up",
    }
}

/// Keeps one processor busy.
fn burn(time: Duration) {
    let until = std::time::Instant::now() + time;
    let mut chance = crate::chance::Chance::new(1);
    while std::time::Instant::now() < until {
        std::hint::black_box(chance.bits());
    }
}
