//! `cutover diffs`: where the answers of both paths differ, side by side.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;

use crate::cli::admin_client;
use crate::cli::global::{Global, print};
use crate::compare::redact::Shown;
use crate::compare::view::{self, DiffLine, RouteDiffs, Sample};
use crate::report::text::clean;

/// The width of legacy's column, which fits a hash and most revealed values.
const COLUMN: usize = 40;

/// `cutover diffs`
#[derive(Debug, Args)]
pub(crate) struct Diffs {
    /// Only of this route.
    #[arg(long)]
    route: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// How words stand out. What they say is said without colours too.
#[derive(Clone, Copy, Debug)]
struct Paint {
    is_coloured: bool,
}

impl Diffs {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let document = admin_client::get_json(&global.admin()?, "/api/v1/diffs")?;
        let mut diffs: view::Diffs = serde_json::from_value(document)?;
        if let Some(route) = &self.route {
            diffs.routes.retain(|found| found.route == *route);
            diffs.differences.retain(|found| found.route == *route);
            diffs.rules.retain(|found| found.route == *route);
        }
        if self.json {
            print(&format!("{}\n", serde_json::to_string(&diffs)?))?;
        } else {
            // https://no-color.org
            let is_coloured =
                std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            print(&prose(&diffs, Paint { is_coloured }))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

// === impl Paint ===

impl Paint {
    /// `text` in a colour of the terminal: 31 is red, 32 green, 33 yellow, 2 dim.
    fn with(self, code: u8, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn prose(diffs: &view::Diffs, paint: Paint) -> String {
    let mut lines = head(diffs, paint);
    if !diffs.routes.is_empty() {
        lines.push(format!(
            "{:<24} {:>9} {:>9} {:>7} {:>10} {:>10} {:>10} {:>10}",
            "route", "compared", "same", "noise", "confirmed", "unasked", "transient", "unanswered"
        ));
        lines.extend(diffs.routes.iter().map(route_line));
    }
    for line in &diffs.differences {
        lines.extend(difference(line, paint));
    }
    let stale = diffs.rules.iter().filter(|rule| rule.hits == 0);
    lines.extend(stale.map(|rule| {
        format!("rule never applied: {} {} = {}", clean(&rule.route), rule.rule, clean(&rule.text))
    }));
    if diffs.left_out > 0 {
        lines.push(format!("{} differences more are not listed", diffs.left_out));
    }
    if diffs.duplicate_names > 0 {
        lines.push(format!("{} answers had a name twice in one object", diffs.duplicate_names));
    }
    lines.join("\n") + "\n"
}

fn head(diffs: &view::Diffs, paint: Paint) -> Vec<String> {
    if diffs.is_idle() {
        return vec!["nothing is mirrored: `mirror.share` is 0".to_owned()];
    }
    let gate = &diffs.gate;
    let state = if gate.open { paint.with(32, "open") } else { paint.with(31, "closed") };
    let share = diffs.share * 100.0;
    let mut lines = vec![format!(
        "mirror {share} % · gate {state} · {} compared, {} differ",
        gate.compared, gate.differing
    )];
    if let Some(off) = &diffs.switched_off {
        let since = clean(&off.since);
        let words = format!("  SWITCHED OFF since {since}: requests that it copies take longer");
        lines.push(paint.with(31, &words));
    }
    lines.extend(gate.reasons.iter().map(|reason| format!("  {}", clean(&reason.to_string()))));
    if !gate.unverified.is_empty() {
        lines.push(format!("  unverified: {}", clean(&gate.unverified.join(", "))));
    }
    lines
}

fn route_line(route: &RouteDiffs) -> String {
    let RouteDiffs {
        compared, matched, noise, confirmed, unconfirmed, transient, failures, ..
    } = route;
    let name = clean(&route.route);
    format!(
        "{name:<24} {compared:>9} {matched:>9} {noise:>7} {confirmed:>10} {unconfirmed:>10} \
         {transient:>10} {failures:>10}"
    )
}

/// What differs, and its samples side by side.
fn difference(line: &DiffLine, paint: Paint) -> Vec<String> {
    let place = if line.place.is_empty() { "the whole answer" } else { &line.place };
    let finding = match line.is_regression() {
        true => paint.with(31, &line.finding),
        false => paint.with(33, &clean(&line.finding)),
    };
    let mut lines = vec![format!(
        "\n{finding} {} {} {}: {} of {}, one path from itself {} of {}",
        clean(&line.route),
        line.kind.name(),
        clean(place),
        line.differed,
        line.compared,
        line.noise,
        line.asked_twice
    )];
    if !line.samples.is_empty() {
        lines.push(paint.with(2, &format!("  {:<COLUMN$} {:<COLUMN$} request", "legacy", "async")));
    }
    lines.extend(line.samples.iter().map(|sample| side_by_side(sample, paint)));
    lines
}

fn side_by_side(sample: &Sample, paint: Paint) -> String {
    let cell = |shown: &Option<Shown>, code: u8| {
        let text = shown.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let text: String = clean(&text).replace('\n', " ").chars().take(COLUMN).collect();
        // Padded before it is coloured: colours have no width.
        paint.with(code, &format!("{text:<COLUMN$}"))
    };
    let query = match sample.query.join(",") {
        names if names.is_empty() => names,
        names => format!(" ?{names}"),
    };
    let confirmed = if sample.confirmed { ", confirmed" } else { "" };
    let request = clean(&format!("{} {}{query}{confirmed}", sample.method, sample.request_id));
    let (legacy, async_) = (cell(&sample.legacy, 31), cell(&sample.async_, 32));
    format!("  {legacy} {async_} {}", request.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::gate::{Gate, GateReason};
    use crate::compare::kind::Kind;
    use crate::compare::view::{RuleHits, SwitchedOff};

    fn found() -> view::Diffs {
        let shown = |kind: &str, value: Option<&str>| {
            let hash = Some("00112233aabbccdd".to_owned());
            Some(Shown { length: Some(4), hash, ..Shown::plain(kind, value.map(str::to_owned)) })
        };
        let sample = Sample {
            number: 1,
            request_id: "01HX\u{1b}[2J".to_owned(),
            method: "GET".to_owned(),
            query: vec!["page".to_owned(), "*".to_owned()],
            legacy: shown("number", None),
            async_: shown("string", Some("\u{1b}[31mred\n")),
            confirmed: true,
        };
        view::Diffs {
            share: 0.1,
            switched_off: None,
            gate: Gate {
                reasons: vec![GateReason::TooFew { have: 12, need: 1_077 }],
                compared: 12,
                differing: 3,
                unverified: vec!["cart".to_owned()],
                ..Gate::default()
            },
            routes: vec![RouteDiffs {
                route: "orders".to_owned(),
                compared: 12,
                matched: 9,
                ..RouteDiffs::default()
            }],
            differences: vec![DiffLine {
                finding: DiffLine::REGRESSION.to_owned(),
                route: "orders".to_owned(),
                kind: Kind::Type,
                place: "/items/*/id".to_owned(),
                differed: 3,
                compared: 12,
                noise: 0,
                asked_twice: 1,
                samples: vec![sample],
            }],
            left_out: 2,
            duplicate_names: 1,
            rules: vec![RuleHits {
                route: "orders".to_owned(),
                rule: "ignore".to_owned(),
                text: "/old".to_owned(),
                hits: 0,
            }],
        }
    }

    #[test]
    fn differences_are_told_side_by_side_and_nothing_steers_the_terminal() {
        let text = prose(&found(), Paint { is_coloured: false });
        for told in [
            "mirror 10 % · gate closed · 12 compared, 3 differ\n  12 of 1077 comparisons\n",
            "  unverified: cart\n",
            "regression orders type /items/*/id: 3 of 12, one path from itself 0 of 1\n",
            "  number[4] #00112233aabbccdd              string \u{fffd}[31mred",
            "GET 01HX\u{fffd}[2J ?page,*, confirmed\n",
            "rule never applied: orders ignore = /old\n",
            "2 differences more are not listed\n",
            "1 answers had a name twice in one object\n",
        ] {
            assert!(text.contains(told), "no `{told}` in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn colours_add_nothing_but_colours() {
        let [plain, coloured] =
            [false, true].map(|is_coloured| prose(&found(), Paint { is_coloured }));
        let mut bare = coloured.clone();
        for code in [2, 31, 32, 33, 0] {
            bare = bare.replace(&format!("\x1b[{code}m"), "");
        }
        assert!(coloured.contains("\x1b[31mregression\x1b[0m"), "{coloured}");
        assert_eq!(bare, plain);
    }

    #[test]
    fn a_mirror_that_is_switched_off_is_told() {
        let since = "2026-01-01T00:00:00Z".to_owned();
        let off = SwitchedOff { since, evidence: 9.1, slow_drawn: 30, slow_plain: 2 };
        let text = prose(
            &view::Diffs { switched_off: Some(off), ..found() },
            Paint { is_coloured: false },
        );
        let told = "differ\n  SWITCHED OFF since 2026-01-01T00:00:00Z: requests that it copies";
        assert!(text.contains(told), "{text}");
    }

    #[test]
    fn without_a_mirror_it_says_so() {
        let text = prose(&view::Diffs::default(), Paint { is_coloured: false });
        assert_eq!(text, "nothing is mirrored: `mirror.share` is 0\n");
    }
}
