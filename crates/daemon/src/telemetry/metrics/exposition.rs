//! The two text formats that scrapers ask for.

use std::fmt::Write as _;

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own format, version 0.0.4: the default.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format that an `Accept` header prefers.
    pub fn accepted(accept: Option<&str>) -> Self {
        let quality = |media_type: &str| {
            let ranges = accept.unwrap_or_default().split(',');
            ranges
                .filter_map(|range| {
                    let mut parts = range.split(';').map(str::trim);
                    let same = parts.next()?.eq_ignore_ascii_case(media_type);
                    let weight = parts.find_map(|part| part.strip_prefix("q="));
                    same.then(|| weight.map_or(1.0, |text| text.parse().unwrap_or(0.0)))
                })
                .fold(0.0_f64, f64::max)
        };
        let open = quality("application/openmetrics-text");
        if open > 0.0 && open >= quality("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The `Content-Type` to serve it with.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Turns OpenMetrics text into Prometheus' older format, in which the `HELP` and `TYPE` of a
/// counter name the series itself, with `_total`, and nothing marks the end.
pub(super) fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "EOF"] | ["#", "UNIT", ..] => {}
            ["#", "HELP", name, help] => {
                let type_line = lines.peek().copied().unwrap_or_default();
                let total = if type_line.ends_with(" counter") {
                    "_total"
                } else {
                    ""
                };
                // Writing to a string cannot fail.
                writeln!(text, "# HELP {name}{total} {help}").ok();
            }
            ["#", "TYPE", name, "counter"] => {
                writeln!(text, "# TYPE {name}_total counter").ok();
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_the_scraper_prefers() {
        for (accept, format) in [
            (None, Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (Some("text/plain"), Format::Prometheus),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("application/openmetrics-text;q=0"), Format::Prometheus),
            (
                Some("text/plain,application/openmetrics-text;version=1.0.0;q=0.5"),
                Format::Prometheus,
            ),
            (
                // Sent by Prometheus 2.42.
                Some(
                    "application/openmetrics-text;version=1.0.0,\
                     application/openmetrics-text;version=0.0.1;q=0.75,\
                     text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn a_counter_is_named_with_its_suffix_in_the_older_format() {
        let open = "# HELP a Jobs of a kind.\n# TYPE a counter\na_total 1\n# HELP b Bytes.\n\
                    # TYPE b gauge\nb 2\n# EOF\n";
        let text = "# HELP a_total Jobs of a kind.\n# TYPE a_total counter\na_total 1\n\
                    # HELP b Bytes.\n# TYPE b gauge\nb 2\n";
        assert_eq!(to_prometheus(open), text);
    }
}
