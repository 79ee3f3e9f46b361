//! A collector of spans: it takes what it gets, and keeps it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span, span, status};
use prost::Message as _;

use crate::harness::eventually;
use crate::harness::raw::Message;
use crate::harness::raw_backend::Scripted;

/// The collector.
pub(crate) struct Collector {
    pub(crate) backend: Scripted,
    pub(crate) got: Vec<Message>,
    spans: Vec<Seen>,
}

/// A span that it got.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) trace_id: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) is_server: bool,
    pub(crate) is_error: bool,
    /// Nanoseconds since 1970.
    pub(crate) times: (u64, u64),
    attributes: BTreeMap<String, String>,
    pub(crate) service: String,
}

impl Seen {
    /// The value of an attribute; empty if it is absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// The `traceparent` that names it.
    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace_id, self.id)
    }

    fn of(span: &Span, service: &str) -> Self {
        let kind = span.kind();
        assert!(matches!(kind, span::SpanKind::Server | span::SpanKind::Client), "{kind:?}");
        let code = span.status.as_ref().map(|status| status.code());
        Self {
            trace_id: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            name: span.name.clone(),
            is_server: kind == span::SpanKind::Server,
            is_error: code == Some(status::StatusCode::Error),
            times: (span.start_time_unix_nano, span.end_time_unix_nano),
            attributes: texts(&span.attributes),
            service: service.to_owned(),
        }
    }
}

impl Collector {
    pub(crate) fn start() -> Self {
        Self { backend: Scripted::start(), got: Vec::new(), spans: Vec::new() }
    }

    /// The lines of a config that name it, with a ratio.
    pub(crate) fn tail(&self, ratio: f64) -> String {
        tail(self.backend.address, ratio)
    }

    /// All spans so far, of which there must come to be `number`.
    pub(crate) fn spans(&mut self, number: usize) -> Vec<Seen> {
        eventually!({
            self.read();
            self.spans.len() >= number
        });
        assert_eq!(self.spans.len(), number, "{:#?}", self.spans);
        self.spans.clone()
    }

    fn read(&mut self) {
        for message in self.backend.take_got().into_iter().filter(|message| message.complete) {
            let is_for_spans = message.line.ends_with("/v1/traces HTTP/1.1");
            assert!(is_for_spans && message.line.starts_with("POST "), "{}", message.line);
            assert_eq!(message.field("content-type"), Some("application/x-protobuf"));
            let request = ExportTraceServiceRequest::decode(&message.body[..]).unwrap();
            for resource in &request.resource_spans {
                let about = resource.resource.as_ref().map(|about| texts(&about.attributes));
                let service = about.unwrap_or_default().remove("service.name").unwrap_or_default();
                let spans = resource.scope_spans.iter().flat_map(|scope| &scope.spans);
                self.spans.extend(spans.map(|span| Seen::of(span, &service)));
            }
            self.got.push(message);
        }
    }
}

/// The lines of a config that name a collector, with a ratio.
pub(crate) fn tail(collector: SocketAddr, ratio: f64) -> String {
    format!("[trace]\notlp_endpoint = \"http://{collector}\"\nsample_ratio = {ratio:?}\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &AnyValue| match value.value.as_ref() {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let pair =
        |pair: &KeyValue| (pair.key.clone(), pair.value.as_ref().map(text).unwrap_or_default());
    attributes.iter().map(pair).collect()
}
