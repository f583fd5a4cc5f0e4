//! Injects faults into a running soak, and writes each into the journal with whom it hit and how long.

use crate::checker;
use crate::journal::{Event, Expect, now_us};
use crate::plan::Fault;
use crate::proxy::Link;
use crate::roles::tasks::{Behaviour, Hard, PLAIN_QUEUE, QUEUE, Work};
use crate::stage::{Frame, Stage};
use anyhow::Context as _;
use async_nats::HeaderMap;
use jetlane::Task;
use jetlane_schemas::{Fit, Shard, TaskId, header, subject};
use serde_json::json;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// Bytes a second that come to a client that is slow.
const TRICKLE: u32 = 100 << 10;

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
        // Copies of a stream that is hit twice may be gone with what they held: the broker promises nothing then.
        let _turn = if fault.is_of_servers() { Some(self.server_turn.lock().await) } else { None };
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
                self.unknown_frames().await?;
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
                self.admin.replicas_are_current().await?;
                self.servers.wipe(number).await?;
                self.admin.replicas_are_current().await?;
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
            Fault::MetaStepDown => {
                let answer = self.admin.step_down_meta().await?;
                anyhow::ensure!(answer["error"].is_null(), "the leader of the cluster stays: {answer}");
                Hit::of("server-step-down-meta", "cluster", Vec::new())
            }
            Fault::Partition(apart, link, time) => {
                self.servers.part(apart, link, time).await;
                Hit::of("server-partition", format!("{apart:?} {}", link_name(link)), Vec::new())
            }
            Fault::DiskFull(time) => match &self.disk {
                Some(disk) => {
                    let full = disk.fill();
                    tokio::time::sleep(time).await;
                    disk.free()?;
                    full?;
                    // A server whose disk was full takes nothing until it starts anew.
                    self.servers.restart(0).await?;
                    Hit::of("server-disk-full", "0", Vec::new())
                }
                None => Hit::of("skipped-disk-full", "0", Vec::new()),
            },
            Fault::StreamDelete(stream) => {
                let deleted = self.admin.api(&format!("$JS.API.STREAM.DELETE.{stream}"), &json!({})).await?;
                anyhow::ensure!(deleted["error"].is_null(), "{stream} cannot be deleted: {deleted}");
                Hit::of("server-stream-delete", stream, Vec::new())
            }
            Fault::WorkDelete(stream) => {
                self.admin.api(&format!("$JS.API.STREAM.DELETE.{stream}"), &json!({})).await?;
                // Also where an election took the answer: whoever makes the stream anew has to notice that it is gone.
                self.frames.lock().await.retain(|frame| frame.stream != stream);
                Hit::of(checker::WORK_DELETE, stream, Vec::new())
            }
            Fault::SlowConsumer(name, time) => {
                let pid = self.process(name)?.pid();
                let proxies = self.links.get(name).with_context(|| format!("no links of {name}"))?;
                proxies.iter().for_each(|proxy| proxy.set(Link::Trickle(TRICKLE)));
                let flooded = self.flood(time).await;
                proxies.iter().for_each(|proxy| proxy.set(Link::Up));
                flooded?;
                Hit::of("slow-consumer", name, pid.into_iter().collect())
            }
            Fault::ClockStep(name, seconds, time) => {
                let pid = self.process(name)?.pid();
                match self.clocks.get(name) {
                    Some(clock) => {
                        clock.step(seconds)?;
                        tokio::time::sleep(time).await;
                        clock.step(0)?;
                        Hit::of("clock-step", format!("{name} {seconds} s"), pid.into_iter().collect())
                    }
                    None => Hit::of("skipped-clock-step", name, Vec::new()),
                }
            }
            Fault::Duplicate => {
                self.duplicate().await?;
                Hit::of("duplicate", Work::TYPE, Vec::new())
            }
            Fault::Deadly => {
                let id = TaskId::generate().to_string();
                let marker = format!("{}{id}", checker::DEADLY);
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
            delay_us: 0,
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
        // A plain lane, whose clients have to live with whatever comes.
        let plain = subject::lane(&PLAIN_QUEUE.parse()?, normal, &any);
        for body in bytes {
            self.admin.client.publish(plain.clone(), body.to_vec().into()).await?;
        }
        // Keys that nobody asked for.
        let keys = ["hostile", "type.hostile", "type.hostile.type", "queue.hostile", "fault.work.hostile", "a.b.c.d.e"];
        for bucket in [subject::BUCKET_REGISTRY, subject::BUCKET_LEASES, subject::BUCKET_NOTES, subject::BUCKET_CLAIMS]
        {
            for key in keys {
                let body = bytes[key.len() % bytes.len()];
                self.admin.client.publish(format!("$KV.{bucket}.{key}"), body.to_vec().into()).await?;
            }
        }
        // A record that nobody owes to anybody.
        let id = format!("hostile-{}", TaskId::generate());
        self.submits(&id, &id, Work::TYPE, Expect::Anything);
        let done = subject::done(&task_type, &id.parse()?);
        self.admin.client.publish(done, b"\0\xff".to_vec().into()).await?;
        Ok(())
    }

    /// A frame of a version that nobody knows, for a dispatcher and for executors.
    async fn unknown_frames(&self) -> anyhow::Result<()> {
        let (queue, normal, any) = (QUEUE.parse()?, jetlane_schemas::Priority::Normal, Fit::new("any")?);
        let places = [
            (subject::STREAM_TASKS, subject::task(&queue, normal, Shard::default())),
            (subject::STREAM_LANES, subject::bundle(&queue, normal, &any)),
        ];
        for (stream, subject) in places {
            let mut body = b"JL\x01\x09\x00\x01of a later version: ".to_vec();
            body.extend_from_slice(TaskId::generate().to_string().as_bytes());
            let sequence = self.admin.store(&subject, &body).await?;
            self.frames.lock().await.push(Frame { stream, sequence, body });
        }
        Ok(())
    }

    /// Makes sure that frames of an unknown version are still there: in their stream, or whole in a dead letter. Removes
    /// those of streams of work. Returns those that are gone.
    ///
    /// # Errors
    /// When the streams cannot be read.
    pub async fn take_unknown_frames(&self) -> anyhow::Result<Vec<String>> {
        let frames = std::mem::take(&mut *self.frames.lock().await);
        let mut missing = Vec::new();
        for frame in frames {
            if !self.admin.take(frame.stream, frame.sequence, &frame.body).await? {
                missing.push(frame);
            }
        }
        let bodies: Vec<Vec<u8>> = missing.iter().map(|frame| frame.body.clone()).collect();
        let kept = self.admin.holds(subject::STREAM_DEAD, &bodies).await?;
        let gone = missing.iter().filter(|frame| !kept.contains(&frame.body));
        Ok(gone.map(|frame| format!("{} {}", frame.stream, frame.sequence)).collect())
    }

    /// Sends much to whoever listens, for this time: one whose link is slow falls behind. A client of its own reads
    /// nothing at all, if there is a server that takes it.
    async fn flood(&self, time: Duration) -> anyhow::Result<()> {
        /// Messages of `BYTES` at a time, more than the servers keep for one client.
        const MESSAGES: usize = 96;
        const BYTES: usize = 128 << 10;
        const PAUSE: Duration = Duration::from_secs(1);
        let mut idle = Vec::new();
        for url in self.servers.urls() {
            if let Ok(mut client) = tokio::net::TcpStream::connect(url.trim_start_matches("nats://")).await {
                client.write_all(b"CONNECT {\"verbose\":false}\r\nSUB jetlane.> 1\r\nPING\r\n").await?;
                idle.push(client);
                break;
            }
        }
        let (queue, task_type) = (QUEUE.parse()?, Work::TYPE.parse()?);
        let subjects = [
            subject::credit(&queue),
            subject::ask(&queue),
            subject::yield_wanted(&queue),
            subject::cancel(&task_type, &TaskId::generate()),
        ];
        let until = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < until {
            for number in 0..MESSAGES {
                let subject = subjects[number % subjects.len()].clone();
                self.admin.client.publish(subject, vec![0xff; BYTES].into()).await?;
            }
            tokio::time::timeout_at(until, self.admin.client.flush()).await.ok();
            tokio::time::sleep_until(until.min(tokio::time::Instant::now() + PAUSE)).await;
        }
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
        Link::Trickle(_) => "link-trickle",
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
