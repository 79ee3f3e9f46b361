//! The report as one page, complete in itself: its style and plots are in it, and it loads nothing.
//!
//! Owns markup and style. It needs no script, and its policy allows none, nor any request: a report is
//! mailed around and opened from disks. Each value is escaped here, at the only place where text becomes
//! markup. It can be read in the dark, on a phone, on paper and aloud.

use crate::report::outline::{headline, sections};
use crate::report::plot::{Figure, figures};
use crate::report::section::{Mark, Row, Section};
use crate::report::story::Story;
use crate::report::text::clean;

/// The report as a page.
#[must_use]
pub fn render(story: &Story) -> String {
    let mut page = String::from(HEAD);
    page.push_str("<header>\n<h1>Migration report</h1>\n<dl>\n");
    for (name, value) in headline(story) {
        page.push_str(&format!(
            "<div><dt>{}</dt><dd>{}</dd></div>\n",
            escape(name),
            escape(&value)
        ));
    }
    page.push_str("</dl>\n</header>\n<main>\n");
    let mut parts = sections(story).into_iter().enumerate();
    // The checklist is the answer, the plots are the story, the rest is looked up.
    if let Some((place, checklist)) = parts.next() {
        section(&mut page, place, &checklist);
    }
    page.push_str("<section aria-labelledby=\"plots\">\n<h2 id=\"plots\">Over time</h2>\n");
    paragraph(&mut page, THINNED);
    for found in figures(story) {
        figure(&mut page, &found);
    }
    page.push_str("</section>\n");
    for (place, part) in parts {
        section(&mut page, place, &part);
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

/// Makes any text harmless, between tags and within quotes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn section(page: &mut String, place: usize, section: &Section) {
    let title = escape(section.title);
    page.push_str(&format!(
        "<section aria-labelledby=\"s{place}\">\n<h2 id=\"s{place}\">{title}</h2>\n"
    ));
    if section.rows.is_empty() {
        paragraph(page, section.empty);
    } else {
        paragraph(page, &section.intro);
        table(page, section, &title);
    }
    page.push_str("</section>\n");
}

fn paragraph(page: &mut String, text: &str) {
    if !text.is_empty() {
        page.push_str(&format!("<p>{}</p>\n", escape(text)));
    }
}

/// A table that scrolls within the page where it is too wide for it; hence it takes the focus.
fn table(page: &mut String, section: &Section, title: &str) {
    page.push_str(&format!(
        "<div class=\"wide\" role=\"region\" aria-label=\"{title}\" tabindex=\"0\">\n<table>\n<thead>\n<tr>"
    ));
    for (place, name) in section.columns.iter().enumerate() {
        let class = alignment(section, place);
        page.push_str(&format!("<th scope=\"col\"{class}>{}</th>", escape(name)));
    }
    page.push_str("</tr>\n</thead>\n<tbody>\n");
    for found in &section.rows {
        row(page, section, found);
    }
    page.push_str("</tbody>\n</table>\n</div>\n");
}

fn row(page: &mut String, section: &Section, row: &Row) {
    let class = match row.mark {
        Mark::Plain => "plain",
        Mark::Good => "good",
        Mark::Bad => "bad",
        Mark::Open => "open",
    };
    page.push_str(&format!("<tr class=\"{class}\">"));
    for (place, cell) in row.cells.iter().enumerate() {
        let (cell, class) = (escape(cell), alignment(section, place));
        page.push_str(&match place {
            0 => format!("<th scope=\"row\">{cell}</th>"),
            _ => format!("<td{class}>{cell}</td>"),
        });
    }
    page.push_str("</tr>\n");
    if !row.below.is_empty() {
        let (columns, below) = (section.columns.len(), escape(&row.below));
        page.push_str(&format!(
            "<tr class=\"below\"><td colspan=\"{columns}\">{below}</td></tr>\n"
        ));
    }
}

fn alignment(section: &Section, place: usize) -> &'static str {
    if section.numbers.contains(&place) { " class=\"number\"" } else { "" }
}

fn figure(page: &mut String, figure: &Figure) {
    let (title, caption) = (escape(figure.title), escape(&figure.caption));
    page.push_str(&format!("<figure aria-label=\"{title}\">\n"));
    match figure.svg.as_deref().and_then(|svg| svg.split_once('>')) {
        // Its own opening tag has a fixed size, and a namespace that a page has no need of.
        Some((_, drawn)) => page.push_str(&format!(
            "<div class=\"wide\" role=\"region\" aria-label=\"Plot: {title}\" tabindex=\"0\">\n\
             <svg viewBox=\"0 0 1600 520\" role=\"img\" aria-label=\"{title}. {caption}\">{drawn}</div>\n"
        )),
        None => page.push_str("<p>There is nothing to draw yet.</p>\n"),
    }
    page.push_str(&format!(
        "<figcaption><strong>{title}.</strong> {caption}</figcaption>\n</figure>\n"
    ));
}

const THINNED: &str =
    "Of a stretch with more points than can be drawn, the highest and the lowest are.";

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Migration report</title>
<style>
:root { --ink: #1c1f23; --soft: #5a626b; --page: #ffffff; --line: #d5d9de; --band: #f3f5f7;
  --good: #1a6b34; --bad: #b00020; --open: #5a626b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a5adb6; --page: #15181c; --line: #3a4149; --band: #1f242a;
    --good: #6fcf8c; --bad: #ff8a8a; --open: #a5adb6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 66rem; color: var(--ink); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0.5rem 0 1rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 0.75rem; line-height: 1.25; font-size: 1.3rem; }
dl { display: flex; flex-wrap: wrap; gap: 0.75rem; margin: 0; }
dl div { flex: 1 1 14rem; padding: 0.6rem 0.8rem; background: var(--band); border: 1px solid var(--line); border-radius: 6px; }
dt { color: var(--soft); font-size: 0.85rem; }
dd { margin: 0; font-weight: 600; }
p { max-width: 46rem; margin: 0.5rem 0 1rem; }
.wide { overflow-x: auto; overflow-wrap: normal; }
.wide:focus-visible { outline: 3px solid #3b82f6; outline-offset: 2px; }
table { width: 100%; border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.75rem 0.4rem 0; text-align: left; vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; white-space: nowrap; border-bottom: 2px solid var(--line); }
tbody th { font-weight: 600; }
tbody tr:not(.below) > * { border-top: 1px solid var(--line); }
td.number, th.number { text-align: right; white-space: nowrap; }
.below td { padding-top: 0; color: var(--soft); white-space: pre-wrap; overflow-wrap: anywhere; }
.good td:last-child { color: var(--good); font-weight: 600; }
.bad th, .bad td:last-child { color: var(--bad); font-weight: 600; }
.open td:last-child { color: var(--open); }
figure { margin: 0 0 1.75rem; }
figure .wide { background: #ffffff; border: 1px solid var(--line); border-radius: 6px; padding: 0.25rem; }
svg { display: block; width: 100%; min-width: 40rem; height: auto; }
figcaption { margin-top: 0.4rem; font-size: 0.92rem; color: var(--soft); }
@media print {
  :root { --ink: #000000; --soft: #444444; --page: #ffffff; --line: #bbbbbb; --band: #ffffff;
    --good: #1a6b34; --bad: #b00020; --open: #444444; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  .wide { overflow: visible; }
  svg { min-width: 0; }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
}
</style>
</head>
<body>
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::migration;

    /// Checks that each tag is closed in its turn; the page has no other `<` than those of tags.
    fn check_balance(page: &str) {
        const VOID: [&str; 6] = ["!DOCTYPE", "meta", "br", "hr", "img", "link"];
        let mut open = Vec::new();
        for tag in page.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("`<{tag}` has no end"));
            let name = tag.split_whitespace().next().unwrap_or_default();
            assert!(tag.matches('"').count().is_multiple_of(2), "<{tag}>");
            if let Some(name) = name.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "in <{tag}>");
            } else if !tag.ends_with('/') && !VOID.contains(&name) {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?} are not closed");
    }

    /// Nothing is loaded, nothing runs, and headings follow each other.
    fn check_page(page: &str) {
        check_balance(page);
        for bad in
            ["http://", "https://", "<script", "<link", "<img", "url(", "@import", "javascript:"]
        {
            assert!(!page.contains(bad), "{bad}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf "));
        assert_eq!(page.matches("<h1>").count(), 1);
        assert!(page.find("<h1>") < page.find("<h2 "));
        assert!(!page.contains("<h3"));
        assert_eq!(
            page.matches("<figure aria-label=").count(),
            page.matches("<figcaption>").count()
        );
        assert_eq!(
            page.matches("<th").count(),
            page.matches("<th scope=").count() + page.matches("<thead").count()
        );
    }

    #[test]
    fn a_whole_migration_is_told() {
        let page = render(&migration("GET /orders/{id}"));
        check_page(&page);
        for told in [
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
            "11 passed, 0 failed, 0 not reached yet",
            "rb-20261124-021733",
            "routes: GET /orders/{id} 9.",
            "14 of 15",
            "valid: legacy is safe to switch off",
            "Highest: legacy 102 ms, async 44.4 ms. Legacy&#39;s baseline: 96 ms.",
        ] {
            assert!(page.contains(told), "no `{told}`");
        }
        assert_eq!(page.matches("<svg ").count(), 4);
        for name in ["in force", "observed", "rollback", "legacy&apos;s baseline", "MiB"] {
            assert!(page.contains(name), "no `{name}` in a plot");
        }
    }

    #[test]
    fn an_empty_story_has_sentences_in_place_of_plots() {
        let page = render(&Story::default());
        check_page(&page);
        assert_eq!(page.matches("There is nothing to draw yet.").count(), 4);
        assert!(page.contains("There is no checklist."));
    }

    #[test]
    fn a_hostile_name_stays_text() {
        let route =
            "\"></td></table><script>alert('1')</script><img src=https:x onerror=a>&\u{0}\u{202e}";
        let page = render(&migration(route));
        check_page(&page);
        assert!(
            page.contains("&quot;&gt;&lt;/td&gt;&lt;/table&gt;&lt;script&gt;alert(&#39;1&#39;)")
        );
        assert!(!page.contains(['\u{0}', '\u{202e}']));
    }

    #[test]
    fn ten_thousand_points_make_a_page_of_bounded_size() {
        let mut story = migration("GET /");
        let begin: jiff::Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
        let pattern = story.series.clone();
        story.series = (0..10_000_u32)
            .zip(pattern.iter().cycle())
            .map(|(turn, point)| {
                let mut point = point.clone();
                point.at =
                    (begin + jiff::SignedDuration::from_secs(i64::from(turn) * 60)).to_string();
                point.share = f64::from(turn % 100) / 100.0;
                point.paths.async_.p95_ms =
                    [Some(f64::NAN), None, Some(f64::INFINITY), Some(5.0)][turn as usize % 4];
                point
            })
            .collect();
        let page = render(&story);
        check_page(&page);
        assert!(page.len() < 250_000, "{} bytes", page.len());
        for line in page.split("<polyline").skip(1) {
            let (points, _) = line.split_once("/>").unwrap();
            assert!(points.matches(',').count() <= 601, "{points}");
        }
    }
}
