//! What `cutover status --watch` draws: each second the same screen, written over line by line so that
//! nothing flickers, with the last minute of each path as a row of bars.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

/// Bars of a row: seconds, as it is asked once a second.
const BARS: usize = 60;
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The last minute.
#[derive(Debug, Default)]
pub(crate) struct Minute {
    rows: [Row; 4],
}

/// How fast one count grows.
#[derive(Debug, Default)]
struct Row {
    before: Option<u64>,
    // A second each.
    rates: VecDeque<f64>,
}

impl Minute {
    /// One more state of the proxy, `after` the one before.
    pub(crate) fn add(&mut self, status: &Value, after: Duration) {
        let counts = ["legacy", "async"].map(|name| {
            let path = &status["paths"][name];
            [path["requests"].as_u64().unwrap_or_default(), errors(path)]
        });
        for (row, count) in self.rows.iter_mut().zip(counts.as_flattened()) {
            row.add(*count, after);
        }
    }

    /// The rows, a line each.
    pub(crate) fn prose(&self) -> String {
        let mut text = String::new();
        let names = ["legacy requests/s", "legacy errors/s", "async requests/s", "async errors/s"];
        for (name, row) in names.into_iter().zip(&self.rows) {
            let last = row.rates.back().copied().unwrap_or_default();
            // Writing to a string can't fail.
            let _ = writeln!(text, "{name:<18}{last:>9.1} {:<BARS$}", bars(&row.rates));
        }
        text
    }
}

impl Row {
    fn add(&mut self, count: u64, after: Duration) {
        // Less than before: another process.
        if let Some(grown) = self.before.and_then(|before| count.checked_sub(before)) {
            if self.rates.len() == BARS {
                self.rates.pop_front();
            }
            #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
            let rate = grown as f64 / after.as_secs_f64().max(f64::MIN_POSITIVE);
            self.rates.push_back(rate);
        }
        self.before = Some(count);
    }
}

/// All errors of a path.
pub(crate) fn errors(path: &Value) -> u64 {
    path["errors"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum()
}

/// A bar each, the highest of which is the largest; nothing is a space.
fn bars(rates: &VecDeque<f64>) -> String {
    let highest = rates.iter().copied().fold(0.0, f64::max);
    let bar = |rate: &f64| {
        if *rate <= 0.0 {
            return ' ';
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 8")]
        let height = (rate / highest * 8.0).ceil() as usize;
        HEIGHTS[height.clamp(1, 8) - 1]
    };
    rates.iter().map(bar).collect()
}

/// `text` in the place of what is on the screen. What is wider than the screen is cut off (DECAWM is
/// off meanwhile): a line that wrapped would push the others down.
pub(crate) fn over(text: &str) -> String {
    // To the first line; the rest of each line, and what is below the last, goes.
    let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
    format!("\x1b[?7l\x1b[H{lines}\x1b[J\x1b[?7h")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(requests: u64, timeouts: u64) -> Value {
        let path =
            |requests| json!({"requests": requests, "errors": {"reset": 1, "timeout": timeouts}});
        json!({"paths": {"legacy": path(0), "async": path(requests)}})
    }

    #[test]
    fn a_row_shows_how_fast_its_count_grows_and_begins_anew_with_the_process() {
        let mut minute = Minute::default();
        for (requests, timeouts, after) in
            [(100, 0, 1), (140, 0, 1), (160, 3, 2), (7, 0, 1), (87, 0, 1)]
        {
            minute.add(&status(requests, timeouts), Duration::from_secs(after));
        }
        let rates = minute.rows.each_ref().map(|row| Vec::from(row.rates.clone()));
        assert_eq!(rates[0], [0.0, 0.0, 0.0, 0.0]);
        assert_eq!(rates[2], [40.0, 10.0, 80.0]);
        let lines = minute.prose();
        let lines: Vec<_> = lines.lines().map(|line| line.split_whitespace().collect()).collect();
        let lines: [Vec<&str>; 4] = lines.try_into().unwrap();
        assert_eq!(lines[0], ["legacy", "requests/s", "0.0"]);
        assert_eq!(lines[2], ["async", "requests/s", "80.0", "▄▁█"]);
    }

    #[test]
    fn no_more_than_a_minute_is_kept() {
        let mut row = Row::default();
        (0..500).for_each(|count| row.add(count * count, Duration::from_secs(1)));
        assert_eq!(row.rates.len(), BARS);
        assert_eq!(bars(&row.rates).chars().last(), Some('█'));
    }

    #[test]
    fn a_screen_is_written_over_and_not_cleared_and_no_line_wraps() {
        assert_eq!(over("a\nb\n"), "\x1b[?7l\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
    }
}
