//! The metric families of one scrape, as they fill.

use std::collections::BTreeMap;

use prometheus::core::Desc;
use prometheus::proto;

use crate::metrics::histogram::{BOUNDS, Observed};

/// Name and help of a family.
pub(crate) type Family = (&'static str, &'static str);

/// The labels of one sample, each with its value.
pub(crate) type Labels<'a> = [(&'a str, &'a str)];

/// The families of one scrape.
pub(crate) struct Page {
    described: &'static [Family],
    families: BTreeMap<&'static str, proto::MetricFamily>,
}

/// What a collector says of its families.
pub(crate) fn describe(families: &[Family]) -> Result<Vec<Desc>, prometheus::Error> {
    let desc = |(name, help): &Family| {
        Desc::new((*name).to_owned(), (*help).to_owned(), Vec::new(), Default::default())
    };
    families.iter().map(desc).collect()
}

impl Page {
    /// An empty one, for these families.
    pub(crate) fn of(described: &'static [Family]) -> Self {
        Self { described, families: BTreeMap::new() }
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus values are 64-bit floats")]
    /// Adds a sample of a gauge.
    pub(crate) fn gauge(&mut self, name: &'static str, labels: &Labels<'_>, value: u64) {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value as f64);
        let mut metric = metric(labels);
        metric.set_gauge(gauge);
        self.push(name, proto::MetricType::GAUGE, metric);
    }

    #[expect(clippy::cast_precision_loss, reason = "Prometheus values are 64-bit floats")]
    /// Adds a sample of a counter.
    pub(crate) fn counter(&mut self, name: &'static str, labels: &Labels<'_>, value: u64) {
        let mut counter = proto::Counter::default();
        counter.set_value(value as f64);
        let mut metric = metric(labels);
        metric.set_counter(counter);
        self.push(name, proto::MetricType::COUNTER, metric);
    }

    /// Adds a histogram.
    pub(crate) fn histogram(
        &mut self,
        name: &'static str,
        labels: &Labels<'_>,
        observed: &Observed,
    ) {
        let mut cumulative = 0;
        let buckets = BOUNDS.iter().zip(&observed.buckets).map(|(bound, number)| {
            cumulative += number;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(observed.count());
        histogram.set_sample_sum(observed.sum);
        let mut metric = metric(labels);
        metric.set_histogram(histogram);
        self.push(name, proto::MetricType::HISTOGRAM, metric);
    }

    fn push(&mut self, name: &'static str, kind: proto::MetricType, metric: proto::Metric) {
        let family = self.families.entry(name).or_insert_with(|| {
            let help = self.described.iter().find(|(known, _)| *known == name).map_or("", |f| f.1);
            let mut family = proto::MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        family.mut_metric().push(metric);
    }

    /// The families that have samples.
    pub(crate) fn into_families(self) -> Vec<proto::MetricFamily> {
        self.families.into_values().collect()
    }
}

fn metric(labels: &Labels<'_>) -> proto::Metric {
    let labels = labels.iter().map(|(name, value)| {
        let mut label = proto::LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    });
    let mut metric = proto::Metric::default();
    metric.set_label(labels.collect());
    metric
}
