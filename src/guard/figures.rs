//! Figures as findings write them: no more digits than say something.

/// Two digits that say something: 32 %, 3.2 %, 0.35 %.
pub(super) fn percent(rate: f64) -> String {
    let value = rate * 100.0;
    let decimals = match value {
        10.0.. => 0,
        1.0.. => 1,
        0.1.. => 2,
        _ => 3,
    };
    format!("{} %", trimmed(format!("{value:.decimals$}")))
}

/// How many times.
pub(super) fn times(ratio: f64) -> String {
    trimmed(format!("{ratio:.*}", usize::from(ratio < 10.0))) + "x"
}

/// One digit behind the point.
pub(super) fn short(value: f64) -> String {
    trimmed(format!("{value:.1}"))
}

// `text` without the zeros that end its fraction.
fn trimmed(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Thousands apart, as in 214,900.
pub(super) fn grouped(n: u64) -> String {
    if n < 1000 { n.to_string() } else { format!("{},{:03}", grouped(n / 1000), n % 1000) }
}
