//! The metric families as OpenMetrics 1.0 text, which has room for exemplars.
//!
//! Like the Prometheus text format, but that counters' families are named without `_total`, that bounds
//! are written as canonical floats, and that the page has an end.

use std::fmt::Write;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use crate::metrics::exemplar::Exemplar;

/// The media type of a page (OpenMetrics 1.0, "Protocol Negotiation").
pub const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const MEDIA: &str = "application/openmetrics-text";

/// Whether a scraper that says `accept`, all of its lines, would rather have OpenMetrics than the plain
/// format. It has to ask for OpenMetrics by name; what it says of the plain one may be a range, of
/// which the narrowest counts (RFC 9110 section 12.5.1).
#[must_use]
pub fn is_wanted(accept: &str) -> bool {
    let weight = |wanted: &str| {
        let ranges = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_it = parts.next().is_some_and(|media| media.eq_ignore_ascii_case(wanted));
            // RFC 9110 section 12.4.2: without a weight it is 1.
            let mut pairs = parts.filter_map(|part| part.split_once('='));
            let weight = pairs.find(|(name, _)| name.eq_ignore_ascii_case("q"));
            let weight = weight.map_or(1.0, |(_, weight)| weight.parse().unwrap_or(0.0));
            is_it.then_some(weight)
        });
        ranges.reduce(f64::max)
    };
    let ours = weight(MEDIA).unwrap_or(0.0);
    let plain = ["text/plain", "text/*", "*/*"].into_iter().find_map(weight);
    ours > 0.0 && ours >= plain.unwrap_or(0.0)
}

/// Whose exemplars are shown: of one family, by the labels of a histogram and the number of a bucket.
pub(crate) struct WithExemplars<'a> {
    pub(crate) family: &'a str,
    pub(crate) of: &'a dyn Fn(&[LabelPair], usize) -> Option<Exemplar>,
}

fn stem(counter: &str) -> &str {
    counter.strip_suffix("_total").unwrap_or(counter)
}

/// The page.
pub(crate) fn page(families: &[MetricFamily], shown: &WithExemplars<'_>) -> String {
    let mut page = String::new();
    for family in families {
        let (kind, stem) = match family.get_field_type() {
            MetricType::COUNTER => ("counter", stem(family.name())),
            MetricType::HISTOGRAM => ("histogram", family.name()),
            MetricType::GAUGE => ("gauge", family.name()),
            MetricType::SUMMARY | MetricType::UNTYPED => ("unknown", family.name()),
        };
        // Writing to memory can't fail.
        let _ = writeln!(page, "# HELP {stem} {}", escaped(family.help()));
        let _ = writeln!(page, "# TYPE {stem} {kind}");
        for metric in family.get_metric() {
            match kind {
                "histogram" => histogram(&mut page, stem, metric, shown),
                "counter" => {
                    let value = metric.get_counter().get_value();
                    sample(&mut page, &format!("{stem}_total"), metric, value);
                }
                _ => sample(&mut page, stem, metric, metric.get_gauge().get_value()),
            }
        }
    }
    page.push_str("# EOF\n");
    page
}

fn sample(page: &mut String, name: &str, metric: &Metric, value: f64) {
    page.push_str(name);
    labels(page, metric.get_label(), None);
    let _ = writeln!(page, " {}", float(value));
}

fn histogram(page: &mut String, name: &str, metric: &Metric, shown: &WithExemplars<'_>) {
    let (histogram, pairs) = (metric.get_histogram(), metric.get_label());
    let bounds = histogram.get_bucket().iter();
    let bounds = bounds.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let finite = bounds.filter(|(bound, _)| bound.is_finite());
    let all = finite.chain([(f64::INFINITY, histogram.get_sample_count())]);
    for (index, (bound, count)) in all.enumerate() {
        let _ = write!(page, "{name}_bucket");
        labels(page, pairs, Some(&float(bound)));
        let _ = write!(page, " {count}");
        let exemplar = (name == shown.family).then(|| (shown.of)(pairs, index)).flatten();
        if let Some(Exemplar { trace_id, took, at_ms }) = exemplar {
            let (took, at, ms) = (took.as_secs_f64(), at_ms / 1_000, at_ms % 1_000);
            let _ = write!(page, " # {{trace_id=\"{trace_id:032x}\"}} {took:?} {at}.{ms:03}");
        }
        page.push('\n');
    }
    let _ = write!(page, "{name}_count");
    labels(page, pairs, None);
    let _ = write!(page, " {}\n{name}_sum", histogram.get_sample_count());
    labels(page, pairs, None);
    let _ = writeln!(page, " {:?}", histogram.get_sample_sum());
}

fn labels(page: &mut String, pairs: &[LabelPair], bound: Option<&str>) {
    let pairs = pairs.iter().map(|pair| (pair.name(), pair.value()));
    let mut between = '{';
    for (name, value) in pairs.chain(bound.map(|bound| ("le", bound))) {
        let _ = write!(page, "{between}{name}=\"{}\"", escaped(value));
        between = ',';
    }
    if between == ',' {
        page.push('}');
    }
}

/// A canonical float: with a point, and infinity by the name that it has here.
fn float(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    format!("{number:?}")
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::core::Collector;
    use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts};

    use super::*;

    #[test]
    fn what_a_scraper_likes_best_is_what_it_gets() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3,*/*;q=0.1";
        for (accept, is_it) in [
            (prometheus, true),
            ("application/openmetrics-text", true),
            ("Application/OpenMetrics-Text; version=1.0.0", true),
            ("text/plain, application/openmetrics-text;q=0.5", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=x", false),
            ("application/openmetrics-text;Q=0", false),
            ("application/openmetrics-text; Q=0.5,text/plain;Q=0.6", false),
            ("application/openmetrics-text;q=0.5,*/*", false),
            ("application/openmetrics-text;q=0.5,text/*;q=0.6", false),
            ("application/openmetrics-text,*/*", true),
            ("application/openmetrics-text;q=0.5,text/plain;q=0.4,*/*", true),
            ("application/openmetrics-text;q=0.5,text/*;q=0.4,*/*", true),
            ("text/plain", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(is_wanted(accept), is_it, "{accept}");
        }
    }

    #[test]
    fn a_page_has_its_families_their_exemplars_and_an_end() {
        let opts = HistogramOpts::new("took_seconds", "How \"long\".").buckets(vec![0.5, 1.0]);
        let histogram = Histogram::with_opts(opts).unwrap();
        (0..3).for_each(|_| histogram.observe(0.75));
        let counter = IntCounterVec::new(Opts::new("seen_total", "Seen."), &["a"]).unwrap();
        counter.with_label_values(&["q\"\\\n"]).inc();
        let gauge = IntGauge::new("open", "Open.").unwrap();
        let of = |_: &[LabelPair], bucket: usize| {
            let (trace_id, took) = (0xabc, Duration::from_millis(750));
            (bucket == 1).then_some(Exemplar { trace_id, took, at_ms: 1_700_000_000_012 })
        };
        let families = [histogram.collect(), counter.collect(), gauge.collect()].concat();
        let expected = r#"# HELP took_seconds How \"long\".
# TYPE took_seconds histogram
took_seconds_bucket{le="0.5"} 0
took_seconds_bucket{le="1.0"} 3 # {trace_id="00000000000000000000000000000abc"} 0.75 1700000000.012
took_seconds_bucket{le="+Inf"} 3
took_seconds_count 3
took_seconds_sum 2.25
# HELP seen Seen.
# TYPE seen counter
seen_total{a="q\"\\\n"} 1.0
# HELP open Open.
# TYPE open gauge
open 0.0
# EOF
"#;
        assert_eq!(page(&families, &WithExemplars { family: "took_seconds", of: &of }), expected);
        let none = page(&families, &WithExemplars { family: "other", of: &of });
        assert!(!none.contains("trace_id"), "{none}");
    }
}
