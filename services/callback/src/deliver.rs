//! One delivery of one callback: made, judged, and its consequence stored.

use crate::allowed::{self, FollowUp};
use crate::body;
use crate::endpoint::{Endpoints, Target};
use crate::parcel::Parcel;
use crate::places::{Places, Receiver};
use crate::rules::{Answer, Verdict, judge};
use crate::signature;
use jetlane::Client;
use jetlane_bus::trace;
use jetlane_schemas::task::check_callbacks;
use jetlane_schemas::{Callback, Outcome, Priority, TaskId, TaskType, TraceContext, header};
use jetlane_service::egress::{self, Policy, Request};
use jetlane_service::frame::one_line;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, warn};

/// How long a callback stays away that waited for its receiver when the service drained: until another takes over.
const DRAIN_PAUSE: Duration = Duration::from_secs(1);

/// What has become of callbacks in this process.
#[derive(Debug, Default)]
pub struct Counts {
    delivered: AtomicU64,
    again: AtomicU64,
    dead: AtomicU64,
}

impl Counts {
    /// Callbacks that were taken.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Deliveries in vain that are to be made again.
    pub fn again(&self) -> u64 {
        self.again.load(Ordering::Relaxed)
    }

    /// Callbacks that were given up.
    pub fn dead(&self) -> u64 {
        self.dead.load(Ordering::Relaxed)
    }
}

/// What deliveries are made with.
#[derive(Debug)]
pub(crate) struct Post {
    client: Client,
    endpoints: Endpoints,
    public: egress::Client,
    anywhere: egress::Client,
    places: Arc<Places>,
    drain: CancellationToken,
    counts: Arc<Counts>,
}

/// What one delivery led to.
enum Made {
    Answered(Answer),
    /// The receiver has as many deliveries as it may have: the callback stays away for so long.
    Busy(Duration),
}

impl Post {
    pub(crate) fn new(
        client: Client,
        endpoints: Endpoints,
        counts: Arc<Counts>,
        drain: CancellationToken,
    ) -> Result<Self, egress::Error> {
        let (public, anywhere) = (egress::Client::new(Policy::PublicOnly)?, egress::Client::new(Policy::AnyAddress)?);
        Ok(Self { client, endpoints, public, anywhere, places: Arc::default(), drain, counts })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Counts a dead letter.
    pub(crate) fn buried(&self) {
        self.counts.dead.fetch_add(1, Ordering::Relaxed);
    }

    /// Delivers a callback. Once this is `Ok`, its outcome is stored, and what it came with may be acked.
    pub(crate) async fn deliver(&self, parcel: &Parcel) -> Result<(), jetlane_bus::Error> {
        let span = span(parcel);
        trace::set_parent(&span, &parcel.completion.trace);
        let work = async {
            match self.make(parcel, &span).await {
                Made::Answered(answer) => self.follow(parcel, answer, &span).await,
                Made::Busy(pause) => parcel.store_due(self.client.bus(), pause, parcel.in_vain).await,
            }
        };
        work.instrument(span.clone()).await
    }

    async fn make(&self, parcel: &Parcel, span: &Span) -> Made {
        // A completion may come from any client, so what a submission had to pass is checked again.
        if let Err(invalid) = check_callbacks(&parcel.completion.callbacks) {
            return Made::Answered(Answer::Impossible(invalid.to_string()));
        }
        match parcel.callback() {
            Callback::Webhook { endpoint } => self.webhook(parcel, endpoint, trace_of(parcel, span)).await,
            Callback::Subject { subject } => self.subject(parcel, subject, trace_of(parcel, span)).await,
            Callback::Task { task_type, priority, callbacks } => {
                self.follow_up(parcel, task_type, priority.unwrap_or(parcel.completion.priority), callbacks).await
            }
        }
    }

    async fn webhook(&self, parcel: &Parcel, asked: &str, trace: TraceContext) -> Made {
        let target = match self.endpoints.target(asked) {
            Ok(target) => target,
            Err(reason) => return Made::Answered(Answer::Impossible(reason)),
        };
        let (url, secrets, policy, receiver) = match target {
            Target::Endpoint(endpoint) => {
                let receiver = Receiver::Endpoint(asked.to_owned());
                (endpoint.url.as_str(), endpoint.secrets.as_slice(), endpoint.policy, receiver)
            }
            Target::Url(url) => match egress::parse(url, Policy::PublicOnly) {
                Ok(parsed) => {
                    let receiver = Receiver::Origin(parsed.origin().ascii_serialization());
                    (url, [].as_slice(), Policy::PublicOnly, receiver)
                }
                Err(refused) => return Made::Answered(Answer::Impossible(one_line(&refused))),
            },
        };
        let place = match self.places.take(receiver, Instant::now()) {
            Ok(place) => place,
            Err(pause) => return Made::Busy(pause),
        };
        let permit = tokio::select! {
            biased;
            permit = place.permit() => permit,
            () = self.drain.cancelled() => return Made::Busy(DRAIN_PAUSE),
        };
        let request = request(url, parcel, secrets, trace);
        let http = if policy == Policy::AnyAddress { &self.anywhere } else { &self.public };
        let began = Instant::now();
        let sent = http.send(request).await;
        place.measured(began.elapsed());
        drop(permit);
        Made::Answered(match sent {
            Ok(response) => {
                let retry_after = response.retry_after(SystemTime::now());
                Answer::Status(response.status, retry_after)
            }
            Err(error) if error.is_permanent() => Answer::Impossible(one_line(&error)),
            Err(error) => Answer::Silence(one_line(&error)),
        })
    }

    /// By core NATS: all who listen have it, and a stream that takes the subject stores it (once
    /// within its window, by the message id).
    async fn subject(&self, parcel: &Parcel, subject: &str, trace: TraceContext) -> Made {
        if let Err(reason) = self.endpoints.may_publish(subject) {
            return Made::Answered(Answer::Impossible(reason));
        }
        let mut headers: jetlane_schemas::Headers = parcel
            .headers()
            .into_pairs()
            .into_iter()
            .filter(|(name, _)| name != header::TRACEPARENT && name != header::TRACESTATE && name != header::CALLBACKS)
            .collect();
        headers.push(header::TASK_ID, parcel.completion.id.as_str());
        headers.push(header::TASK_TYPE, parcel.completion.task_type.as_str());
        headers.push(header::MSG_ID, parcel.id());
        for (name, value) in trace_headers(trace) {
            headers.push(name, value);
        }
        let bus = self.client.bus();
        let sent = match bus.send(subject.to_owned(), headers, parcel.completion.body.clone().into()).await {
            Ok(()) => bus.flush().await,
            failed => failed,
        };
        Made::Answered(match sent {
            Ok(()) => Answer::Taken,
            Err(error) => Answer::Silence(one_line(&error)),
        })
    }

    /// Submits the follow-up under an id that is the same however often this is done.
    async fn follow_up(
        &self,
        parcel: &Parcel,
        task_type: &TaskType,
        priority: Priority,
        callbacks: &[Callback],
    ) -> Made {
        let parent = &parcel.completion;
        if parent.outcome != Outcome::Succeeded {
            debug!(task_id = %parent.id, outcome = %parent.outcome, "No follow-up: its parent did not succeed.");
            return Made::Answered(Answer::Taken);
        }
        let queue_of = |task_type: &TaskType| self.client.task_type(task_type).map(|entry| entry.queue);
        match allowed::follow_up(&self.endpoints.follow_ups, &parent.task_type, task_type, queue_of) {
            FollowUp::Allowed => {}
            FollowUp::Unknown(reason) => return Made::Answered(Answer::Silence(reason)),
            FollowUp::Refused(reason) => return Made::Answered(Answer::Impossible(reason)),
        }
        let mut submit = self
            .client
            .submit_json(task_type.as_str(), parent.body.clone())
            .id(TaskId::of_follow_up(&parent.task_type, &parent.id, parcel.index))
            .priority(priority)
            .tenant(parent.tenant.as_str())
            .parent(parent.id.clone());
        if let Some(baggage) = &parent.baggage {
            submit = submit.header(header::BAGGAGE, baggage);
        }
        for callback in callbacks {
            submit = submit.callback(callback.clone());
        }
        Made::Answered(match submit.forget().await {
            Ok(_accepted) => Answer::Taken,
            Err(error @ (jetlane::Error::Name(_) | jetlane::Error::Option(_) | jetlane::Error::Encode { .. })) => {
                Answer::Impossible(one_line(&error))
            }
            Err(error) => Answer::Silence(one_line(&error)),
        })
    }

    /// Stores what follows from the answer.
    async fn follow(&self, parcel: &Parcel, answer: Answer, span: &Span) -> Result<(), jetlane_bus::Error> {
        if let Answer::Status(status, _) = answer {
            trace::set_attribute(span, "http.response.status_code", i64::from(status));
        }
        let bus = self.client.bus();
        let task_id = &parcel.completion.id;
        let in_vain = parcel.in_vain.saturating_add(1);
        let reason = match judge(answer, parcel.in_vain, parcel.jitter()) {
            Verdict::Delivered => {
                self.counts.delivered.fetch_add(1, Ordering::Relaxed);
                debug!(%task_id, index = parcel.index, "Callback delivered.");
                return Ok(());
            }
            Verdict::Again(pause, reason) => {
                trace::set_error(span, &reason);
                warn!(%task_id, index = parcel.index, in_vain, ?pause, reason, "Callback not delivered; it comes again.");
                parcel.store_due(bus, pause, in_vain).await?;
                self.counts.again.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Verdict::Dead(reason) => reason,
            Verdict::Gone => self.gone(parcel),
        };
        trace::set_error(span, &reason);
        warn!(%task_id, index = parcel.index, in_vain, reason, "Callback given up; it is kept as a dead letter.");
        parcel.bury(bus, in_vain, &reason).await?;
        self.buried();
        Ok(())
    }

    fn gone(&self, parcel: &Parcel) -> String {
        if let Callback::Webhook { endpoint: name } = parcel.callback()
            && let Some(endpoint) = self.endpoints.get(name)
            && endpoint.disable()
        {
            warn!(endpoint = %name, "Endpoint disabled: its receiver wants nothing more (status 410).");
        }
        "the receiver wants nothing more (status 410)".into()
    }
}

fn request(url: &str, parcel: &Parcel, secrets: &[signature::Secret], trace: TraceContext) -> Request {
    let body = body::write(&parcel.completion);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let mut request = Request::new("POST", url).header("content-type", "application/json");
    for (name, value) in signature::headers(secrets, &parcel.id(), at, &body) {
        // Without a secret there is no signature, and an empty one would be taken for a broken one.
        if !value.is_empty() {
            request = request.header(name, value);
        }
    }
    for (name, value) in trace_headers(trace) {
        request = request.header(name, value);
    }
    request.body(body)
}

/// One child of the completion's trace for each delivery, so that retries are siblings.
fn span(parcel: &Parcel) -> Span {
    let (kind, what, span_kind) = match parcel.callback() {
        Callback::Webhook { endpoint } if endpoint.contains(':') => ("webhook", "url", "client"),
        Callback::Webhook { endpoint } => ("webhook", endpoint.as_str(), "client"),
        Callback::Subject { .. } => ("subject", "", "producer"),
        Callback::Task { task_type, .. } => ("task", task_type.as_str(), "internal"),
    };
    let span = tracing::info_span!(
        target: "jetlane::span",
        "callback",
        otel.name = format!("callback {kind} {what}").trim_end(),
        otel.kind = span_kind,
        jetlane.task.id = %parcel.completion.id,
        jetlane.task.type = %parcel.completion.task_type,
        jetlane.task.outcome = %parcel.completion.outcome,
        jetlane.callback.kind = kind,
        jetlane.callback.index = i64::try_from(parcel.index).unwrap_or(i64::MAX),
        jetlane.callback.delivery = i64::from(parcel.in_vain) + 1,
    );
    match parcel.callback() {
        // OpenTelemetry's messaging conventions. The subject may be the submitter's own: not in the name.
        Callback::Subject { subject } if !span.is_disabled() => {
            trace::set_attribute(&span, "messaging.system", "nats");
            trace::set_attribute(&span, "messaging.operation.name", "callback");
            trace::set_attribute(&span, "messaging.operation.type", "send");
            trace::set_attribute(&span, "messaging.destination.name", subject.clone());
            trace::set_attribute(&span, "messaging.message.id", parcel.id());
        }
        Callback::Webhook { .. } => trace::set_attribute(&span, "http.request.method", "POST"),
        Callback::Subject { .. } | Callback::Task { .. } => {}
    }
    span
}

/// The context to go on with; the completion's own where this process does not trace.
fn trace_of(parcel: &Parcel, span: &Span) -> TraceContext {
    let own = trace::context_of(span);
    if own.is_empty() { parcel.completion.trace.clone() } else { own }
}

fn trace_headers(trace: TraceContext) -> impl Iterator<Item = (&'static str, String)> {
    [(header::TRACEPARENT, trace.traceparent), (header::TRACESTATE, trace.tracestate)]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
}
