//! Spans as OTLP, by the words of OpenTelemetry's semantic conventions for HTTP, and the collector that
//! they are sent to.
//!
//! On the exporter's thread, which blocks here.

use std::future::ready;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Version};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};

use crate::config::{TraceConfig, read_headers};
use crate::guard::fetch;
use crate::trace::span::{Attempt, Ended, Finished};

/// For one batch and the answer to it. What comes meanwhile waits in the queue, or is dropped.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Methods that are names of spans and values of attributes; any other is the client's invention.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];

/// A collector that spans are sent to.
#[derive(Debug)]
pub(super) struct Collector {
    exporter: SpanExporter,
}

impl Collector {
    /// The one that a config asks for, if it does.
    pub(super) fn of(config: &TraceConfig) -> Result<Option<Self>, ExporterBuildError> {
        let Some(collector) = &config.otlp_endpoint else {
            return Ok(None);
        };
        let client = Client {
            agent: fetch::agent(EXPORT_TIMEOUT),
            collector: collector.to_string(),
            headers_file: config.headers_file.clone(),
            is_failing: AtomicBool::new(false),
        };
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(collector.traces_url())
            .with_timeout(EXPORT_TIMEOUT)
            // What is late is of little use, and more comes: what fails is counted and let go of.
            .with_retry_policy(RetryPolicy::default().with_max_retries(0))
            .build()?;
        let resource = Resource::builder_empty()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        exporter.set_resource(&resource.build());
        Ok(Some(Self { exporter }))
    }

    /// Sends the spans of `batch`; whether the collector took them.
    pub(super) async fn export(&self, batch: &[Finished]) -> bool {
        let spans = batch.iter().flat_map(spans).collect();
        // Its client has logged why not.
        self.exporter.export(spans).await.is_ok()
    }
}

// === The client ===

/// The exporter's way to the collector. What is in `headers_file` may be secret: it is read for each
/// request, so that it may change at any time, and is kept nowhere.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    // For logs: without a path or a query.
    collector: String,
    headers_file: Option<PathBuf>,
    is_failing: AtomicBool,
}

/// What an `async fn` of the trait gives.
type Sent<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> Sent<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        let sent = self.send(request);
        let error = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(error) => Some(error.clone()),
        };
        let collector = &self.collector;
        match (error, self.is_failing.load(Ordering::Relaxed)) {
            (Some(error), false) => tracing::warn!(collector, error, "spans can't be exported"),
            (None, true) => tracing::info!(collector, "spans are exported again"),
            (Some(_), true) | (None, false) => {}
        }
        let is_failing = !matches!(&sent, Ok(response) if response.status().is_success());
        self.is_failing.store(is_failing, Ordering::Relaxed);
        Box::pin(ready(sent.map_err(Into::into)))
    }
}

impl Client {
    fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        for (name, value) in self.headers()? {
            request.headers_mut().insert(name, value);
        }
        fetch::send(&self.agent, request)
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let file: Option<&Path> = self.headers_file.as_deref();
        file.map_or_else(|| Ok(Vec::new()), read_headers)
    }
}

// === The words ===

/// The spans of one request: its own, and one for each attempt.
fn spans(finished: &Finished) -> Vec<SpanData> {
    let own = server(finished);
    let Finished { attempts, ended, head, span_id, .. } = finished;
    let clients = attempts.iter().enumerate().map(|(index, attempt)| {
        let mut attributes = method(&head.method);
        let Attempt { endpoint, is_tls, status, error, side, .. } = attempt;
        attributes.extend(host("server", endpoint));
        let url = format!("{}://{endpoint}{}", scheme(*is_tls), head.path);
        attributes.push(KeyValue::new("url.full", url));
        attributes.push(KeyValue::new("cutover.path", side.name()));
        if index > 0 {
            let resent = i64::try_from(index).unwrap_or(i64::MAX);
            attributes.push(KeyValue::new("http.request.resend_count", resent));
        }
        let code = status.map(|status| status.as_u16());
        let status = outcome(&mut attributes, code, *error, 400);
        SpanData {
            parent_span_id: SpanId::from(*span_id),
            parent_span_is_remote: false,
            span_kind: SpanKind::Client,
            name: name(&head.method).into(),
            start_time: attempt.began,
            end_time: attempt.ended.unwrap_or(*ended),
            attributes,
            status,
            ..blank(finished.trace_id, attempt.span_id)
        }
    });
    std::iter::once(own).chain(clients).collect()
}

fn server(finished: &Finished) -> SpanData {
    let Finished { trace_id, parent, span_id, began, ended, head, outcome: how, .. } = finished;
    let Ended { client, decision, route, code, error, failed_over } = how;
    let mut attributes = method(&head.method);
    attributes.push(KeyValue::new("url.path", head.path.clone()));
    attributes.push(KeyValue::new("url.scheme", scheme(head.is_secure)));
    attributes.push(KeyValue::new("client.address", client.to_string()));
    attributes.push(KeyValue::new("network.protocol.version", version(head.version)));
    attributes.extend(head.host.iter().flat_map(|text| host("server", text)));
    if let Some(route) = route {
        attributes.push(KeyValue::new("http.route", route.clone()));
    }
    if let Some((side, reason)) = decision {
        attributes.push(KeyValue::new("cutover.path", side.name()));
        attributes.push(KeyValue::new("cutover.reason", reason.name()));
    }
    if let Some(why) = failed_over {
        attributes.push(KeyValue::new("cutover.failed_over", *why));
    }
    let status = outcome(&mut attributes, *code, *error, 500);
    let known = name(&head.method);
    let name = route.as_ref().map_or_else(|| known.to_owned(), |route| format!("{known} {route}"));
    SpanData {
        parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: parent.is_some(),
        span_kind: SpanKind::Server,
        name: name.into(),
        start_time: *began,
        end_time: *ended,
        attributes,
        status,
        ..blank(*trace_id, *span_id)
    }
}

fn blank(trace_id: u128, span_id: u64) -> SpanData {
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(trace_id),
            SpanId::from(span_id),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: "".into(),
        start_time: std::time::UNIX_EPOCH,
        end_time: std::time::UNIX_EPOCH,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("cutover").build(),
    }
}

/// What came of it: codes from `failure` on are errors, with 4xx that is the asking side's alone.
fn outcome(
    attributes: &mut Vec<KeyValue>,
    code: Option<u16>,
    error: Option<&'static str>,
    failure: u16,
) -> Status {
    if let Some(code) = code {
        attributes.push(KeyValue::new("http.response.status_code", i64::from(code)));
    }
    let failing = code.filter(|code| *code >= failure);
    let kind = error.map(str::to_owned).or_else(|| failing.map(|code| code.to_string()));
    let Some(kind) = kind else {
        return Status::Unset;
    };
    attributes.push(KeyValue::new("error.type", kind));
    Status::error("")
}

fn method(method: &Method) -> Vec<KeyValue> {
    if METHODS.contains(method) {
        return vec![KeyValue::new("http.request.method", name(method))];
    }
    let original = method.as_str().to_owned();
    vec![
        KeyValue::new("http.request.method", "_OTHER"),
        KeyValue::new("http.request.method_original", original),
    ]
}

/// The name of a span, of a closed set.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::CONNECT => "CONNECT",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::PATCH => "PATCH",
        _ => "HTTP",
    }
}

fn scheme(is_secure: bool) -> &'static str {
    if is_secure { "https" } else { "http" }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// `<of>.address` and, if there is one, `<of>.port` of a host and port.
fn host(of: &str, text: &str) -> Vec<KeyValue> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()),
        Some(_) | None => (text, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = KeyValue::new(format!("{of}.address"), host.to_owned());
    let port = port.map(|port| KeyValue::new(format!("{of}.port"), i64::from(port)));
    std::iter::once(address).chain(port).collect()
}
