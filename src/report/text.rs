//! The report as text, for a terminal, a pipe or a ticket: aligned tables, no colours.
//!
//! Words from elsewhere may hold anything. Control characters, and those that turn the direction of
//! writing, are replaced, so that no route's name steers a terminal or hides what it says.

use crate::report::outline::{headline, sections};
use crate::report::section::{Row, Section};
use crate::report::story::Story;

/// The widest line, in characters.
const WIDTH: usize = 100;

/// The width below which no column is cut.
const COLUMN_MIN: usize = 8;

/// The report for a terminal.
#[must_use]
pub fn render(story: &Story) -> String {
    let mut text = String::from("Migration report\n================\n\n");
    for (name, value) in headline(story) {
        text.push_str(&format!("{name:<16}{}\n", clean(&value)));
    }
    for section in sections(story) {
        text.push_str(&format!("\n{}\n{}\n", section.title, "-".repeat(section.title.len())));
        wrap(&mut text, &section.intro, "");
        if section.rows.is_empty() {
            wrap(&mut text, section.empty, "");
        } else {
            table(&mut text, &section);
        }
    }
    text
}

/// Replaces what a terminal would obey, and what makes a text look like another one.
pub(crate) fn clean(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' => c,
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(harmless).collect()
}

fn table(text: &mut String, section: &Section) {
    let head = Row {
        cells: section.columns.iter().map(|column| (*column).to_owned()).collect(),
        ..Row::default()
    };
    let widths = widths(section, &head);
    line(text, section, &head, &widths);
    for row in &section.rows {
        line(text, section, row, &widths);
        wrap(text, &row.below, "    ");
    }
}

/// The width of each column; where they are too wide together, those of words give way.
fn widths(section: &Section, head: &Row) -> Vec<usize> {
    let widest = |place: usize| {
        let cells = section.rows.iter().chain([head]).filter_map(|row| row.cells.get(place));
        cells.map(|cell| flat(cell).chars().count()).max().unwrap_or_default()
    };
    let mut widths: Vec<usize> = (0..section.columns.len()).map(widest).collect();
    let room = WIDTH.saturating_sub(GAP.len() * widths.len().saturating_sub(1));
    while widths.iter().sum::<usize>() > room {
        let places = widths.iter_mut().enumerate();
        let words = places
            .filter(|(place, width)| !section.numbers.contains(place) && **width > COLUMN_MIN);
        let Some((_, widest)) = words.max_by_key(|(_, width)| **width) else { break };
        *widest -= 1;
    }
    widths
}

/// Between two columns.
const GAP: &str = "  ";

fn line(text: &mut String, section: &Section, row: &Row, widths: &[usize]) {
    let cells = row.cells.iter().zip(widths).enumerate().map(|(place, (cell, width))| {
        let cell = cut(&flat(cell), *width);
        if section.numbers.contains(&place) {
            format!("{cell:>width$}")
        } else {
            format!("{cell:<width$}")
        }
    });
    text.push_str(cells.collect::<Vec<_>>().join(GAP).trim_end());
    text.push('\n');
}

/// A cell has one line.
fn flat(cell: &str) -> String {
    clean(cell).replace('\n', " ")
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let mut kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    kept.push('…');
    kept
}

/// Writes lines of words, none wider than the terminal unless a single word is.
fn wrap(text: &mut String, words: &str, indent: &str) {
    for line in clean(words).lines() {
        let mut used = 0;
        for word in line.split_whitespace() {
            let length = word.chars().count();
            if used > 0 && indent.len() + used + 1 + length > WIDTH {
                text.push('\n');
                used = 0;
            }
            text.push_str(if used == 0 { indent } else { " " });
            text.push_str(word);
            used += length + usize::from(used > 0);
        }
        if used > 0 {
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::migration;

    #[test]
    fn a_whole_migration_is_told() {
        let text = render(&migration("GET /orders/{id}"));
        for told in [
            "11 passed, 0 failed, 0 not reached yet",
            "share on async  100 %",
            "1,000,000, of which lost: 0",
            "the ramp reached 100 %",
            "baseline          legacy",
            "rb-20261124-021733",
            "timeout_divergence",
            "    since 02:17:30 (3 s): async 10 of 31 timed out",
            "    routes: GET /orders/{id} 9.",
            "14 of 15",
            "480 ms",
            "310 MiB",
            "srv/shop.py:88",
            "61 %",
            "blocks the loop if called from async code",
            "valid: legacy is safe to switch off",
            "operator",
        ] {
            assert!(text.contains(told), "no `{told}` in\n{text}");
        }
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
            assert_eq!(line, line.trim_end());
        }
    }

    #[test]
    fn an_empty_story_says_what_there_is_not() {
        let text = render(&Story::default());
        for told in ["No requests have been counted", "decided nothing", "None was recorded"] {
            assert!(text.contains(told), "no `{told}` in\n{text}");
        }
    }

    #[test]
    fn no_name_steers_the_terminal_or_breaks_the_table() {
        let route = format!("\u{1b}[2J\r\u{9b}1m\u{202e}\n{}", "x".repeat(300));
        let text = render(&migration(&route));
        let is_hostile = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(is_hostile));
        assert!(
            text.lines()
                .filter(|line| line.chars().count() > WIDTH)
                .all(|line| line.contains("xxx"))
        );
    }

    #[test]
    fn long_lists_end_with_their_newest_lines() {
        let mut story = migration("GET /");
        story.changes = vec![story.changes[0].clone(); 5000];
        story.changes.push(crate::report::story::ChangeLine {
            to: "newest".to_owned(),
            ..story.changes[0].clone()
        });
        let text = render(&story);
        assert!(text.contains("The last 200 of 5001") && text.contains("newest"));
        assert!(text.lines().count() < 400);
    }
}
