//! Spans as OTLP, by the words of OpenTelemetry's semantic conventions for HTTP, and the collector that
//! they are sent to.
//!
//! On the exporter's thread, which blocks here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Request, Version};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use prost::Message;

use crate::config::{self, TraceConfig, read_headers};
use crate::guard::fetch;
use crate::trace::span::{Attempt, Cause, Ended, Finished, Verb};

/// For one batch and the answer to it. What comes meanwhile waits in the queue, or is dropped.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// What a batch is (OTLP 1.x, "OTLP/HTTP Request").
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// A collector that spans are sent to. What is in `headers_file` may be secret: it is read for each
/// batch, so that it may change at any time, and is kept nowhere. Nothing of the environment is sent:
/// what is there may be for another collector.
#[derive(Debug)]
pub(super) struct Collector {
    agent: ureq::Agent,
    address: config::Collector,
    headers_file: Option<PathBuf>,
    resource: ResourceAttributesWithSchema,
    is_failing: bool,
}

impl Collector {
    /// The one that a config asks for, if it does: the `known` one, if that is the same.
    pub(super) fn of(config: &TraceConfig, known: Option<Self>) -> Option<Self> {
        let address = config.otlp_endpoint.clone()?;
        let headers_file = config.headers_file.clone();
        let service = Resource::builder_empty()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let resource = (&service.build()).into();
        let is_same =
            |known: &Self| (&known.address, &known.headers_file) == (&address, &headers_file);
        Some(match known.filter(is_same) {
            Some(known) => Self { resource, ..known },
            None => {
                let agent = fetch::agent(EXPORT_TIMEOUT);
                Self { agent, address, headers_file, resource, is_failing: false }
            }
        })
    }

    /// Whether a request was recorded for it.
    pub(super) fn is_for(&self, finished: &Finished) -> bool {
        finished.collector == self.address
    }

    /// Sends the spans of `batch`; how many of them the collector took. Blocks.
    pub(super) fn export(&mut self, batch: &[Finished]) -> u64 {
        let spans: Vec<_> = batch.iter().flat_map(spans).collect();
        let all = spans.len() as u64;
        let (taken, error) = match self.send(spans) {
            Ok(0) => (all, None),
            Ok(rejected) => {
                (all.saturating_sub(rejected), Some(format!("it rejects {rejected} of {all}")))
            }
            Err(error) => (0, Some(error)),
        };
        let (collector, is_failing) = (&self.address, error.is_some());
        match (error, self.is_failing) {
            (Some(error), false) => tracing::warn!(%collector, error, "spans can't be exported"),
            (None, true) => tracing::info!(%collector, "spans are exported again"),
            (Some(_), true) | (None, false) => {}
        }
        self.is_failing = is_failing;
        taken
    }

    /// How many of `spans` the collector rejects.
    fn send(&self, spans: Vec<SpanData>) -> Result<u64, String> {
        let resource_spans = group_spans_by_resource_and_scope(spans, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let request = Request::post(self.address.traces_url()).header(CONTENT_TYPE, PROTOBUF);
        let mut request = request.body(Bytes::from(body)).map_err(|error| error.to_string())?;
        for (name, value) in self.headers()? {
            request.headers_mut().insert(name, value);
        }
        let response = fetch::send(&self.agent, request)?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("it answers {status}"));
        }
        Ok(rejected(response.body()))
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let file: Option<&Path> = self.headers_file.as_deref();
        file.map_or_else(|| Ok(Vec::new()), read_headers)
    }
}

/// How many spans an answer says were rejected (OTLP 1.x, "Partial Success"). One that is no such message
/// says nothing of the kind.
fn rejected(answer: &[u8]) -> u64 {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    answer.partial_success.map_or(0, |partial| u64::try_from(partial.rejected_spans).unwrap_or(0))
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
        let is_error = error.is_some() || code.is_some_and(|code| code >= 400);
        let status = outcome(&mut attributes, code, *error, is_error);
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
    let Ended { client, decision, route, code, cause, failed_over } = how;
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
    let error = cause.map(Cause::name);
    let status = outcome(&mut attributes, *code, error, is_failure(*code, *cause));
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

/// Whether a SERVER span has failed: never by what its client did (semantic conventions, "HTTP spans:
/// Status": 4xx must be left unset there).
const fn is_failure(code: Option<u16>, cause: Option<Cause>) -> bool {
    match (code, cause) {
        (Some(400..=499), _) => false,
        (Some(500..), _) | (_, Some(Cause::Path(_) | Cause::Cut)) => true,
        (_, Some(Cause::Client(_)) | None) => false,
    }
}

/// What came of it, in `attributes`, and the status for that.
fn outcome(
    attributes: &mut Vec<KeyValue>,
    code: Option<u16>,
    error: Option<&'static str>,
    is_error: bool,
) -> Status {
    if let Some(code) = code {
        attributes.push(KeyValue::new("http.response.status_code", i64::from(code)));
    }
    let failing = code.filter(|_| is_error).map(|code| code.to_string());
    if let Some(kind) = error.map(str::to_owned).or(failing) {
        attributes.push(KeyValue::new("error.type", kind));
    }
    if is_error { Status::error("") } else { Status::Unset }
}

fn method(verb: &Verb) -> Vec<KeyValue> {
    match verb {
        Verb::Known(name) => vec![KeyValue::new("http.request.method", *name)],
        Verb::Other(beginning) => vec![
            KeyValue::new("http.request.method", "_OTHER"),
            KeyValue::new("http.request.method_original", beginning.clone()),
        ],
    }
}

/// The name of a span, of a closed set.
const fn name(verb: &Verb) -> &'static str {
    match verb {
        Verb::Known(name) => name,
        Verb::Other(_) => "HTTP",
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

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;
    use crate::error::{ClientFault, PathFault};

    #[test]
    fn a_server_fails_by_itself_and_never_by_its_client() {
        let (reset, abort) = (Cause::Path(PathFault::Reset), Cause::Client(ClientFault::Abort));
        for (code, cause, expected) in [
            (Some(200), None, false),
            (Some(200), Some(reset), true),
            (Some(200), Some(Cause::Cut), true),
            (Some(200), Some(abort), false),
            (Some(400), Some(Cause::Client(ClientFault::BadRequest)), false),
            (Some(404), None, false),
            (Some(499), None, false),
            (Some(404), Some(reset), false),
            (Some(500), None, true),
            (Some(505), Some(Cause::Client(ClientFault::Version)), true),
            (None, Some(abort), false),
            (None, Some(Cause::Cut), true),
        ] {
            assert_eq!(is_failure(code, cause), expected, "{code:?} {cause:?}");
        }
    }

    #[test]
    fn an_answer_says_how_many_spans_are_rejected() {
        let answer = |rejected_spans| {
            let error_message = "full".to_owned();
            let partial = ExportTracePartialSuccess { rejected_spans, error_message };
            ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec()
        };
        assert_eq!([7, 0, -1].map(|spans| rejected(&answer(spans))), [7, 0, 0]);
        assert_eq!([&b""[..], b"ok", b"{}", &[0xff; 9]].map(rejected), [0; 4]);
    }

    #[test]
    fn a_collector_stays_while_its_address_and_its_headers_do() {
        let config = |address: &str, service: &str| TraceConfig {
            otlp_endpoint: Some(address.parse().unwrap()),
            service_name: service.to_owned(),
            ..TraceConfig::default()
        };
        let (is_failing, resource) = (true, ResourceAttributesWithSchema::default());
        let known = Collector::of(&config("http://a", "x"), None);
        let mut known = known.map(|known| Collector { is_failing, resource, ..known });
        for (config, is_same) in [
            (config("http://a", "y"), true),
            (TraceConfig { sample_ratio: 0.5, ..config("http://a", "y") }, true),
            (TraceConfig { headers_file: Some("h".into()), ..config("http://a", "y") }, false),
        ] {
            known = Collector::of(&config, known);
            let found = known.as_ref().unwrap();
            assert_eq!(found.is_failing, is_same, "{config:?}");
            assert!(format!("{:?}", found.resource).contains("\"y\""));
        }
        let known = Collector::of(&config("http://b", "y"), known).unwrap();
        assert!(!known.is_failing && Collector::of(&TraceConfig::default(), Some(known)).is_none());
    }
}
