//! Figures for people: a table for the terminal, and `docs/performance.md` with before and after.

use std::fmt::Write;

use crate::{
    catalogue::FIGURES,
    figure::{Better, Figure, Kind},
};

/// Changes within this share are noise: two runs of the same code differ by as much.
const NOISE: f64 = 0.05;

/// Cells of the longest bar.
const BAR: f64 = 40.0;

/// How a figure compares with the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Better,
    Same,
    Worse,
}

/// Compares two values of a figure.
pub fn compare(better: Better, before: f64, now: f64) -> Change {
    let (good, bad) = match better {
        Better::Lower => (now < before * (1.0 - NOISE), now > before * (1.0 + NOISE)),
        Better::Higher => (now > before * (1.0 + NOISE), now < before * (1.0 - NOISE)),
    };
    match (good, bad) {
        (true, _) => Change::Better,
        (_, true) => Change::Worse,
        _ => Change::Same,
    }
}

/// What was measured, for the terminal.
pub fn table(figures: &[Figure]) -> String {
    let mut text = format!(
        "{:<30} {:>9} {:<4} {:>9} {:>10} {:>7} {:>5}\n",
        "FIGURE", "P50", "", "P99", "REFERENCE", "RATIO", "RUNS"
    );
    for figure in figures {
        let Figure { name, unit, p50, p99, reference_value, ratio, runs, .. } = figure;
        let (reference, ratio) = (optional(*reference_value), optional(*ratio));
        writeln!(text, "{name:<30} {p50:>9} {unit:<4} {p99:>9} {reference:>10} {ratio:>7} {runs:>5}")
            .expect("writing to a String cannot fail");
    }
    text
}

/// The whole of `docs/performance.md`.
pub fn document(before: &[Figure], now: &[Figure]) -> String {
    let mut text = String::from(HEAD);
    text.push_str(
        "| figure | unit | before | now | worst of now | reference before | reference now | ratio before | ratio now | change |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
    );
    for kind in &FIGURES {
        text.push_str(&row(kind, of(before, kind), of(now, kind)));
    }
    text.push_str("\n## Each figure\n");
    for kind in &FIGURES {
        text.push_str(&section(kind, of(before, kind), of(now, kind)));
    }
    text
}

const HEAD: &str = "# Performance\n\n\
    This page is written by `make bench` from `bench/before.json` (the figures before the latest large change) and \
    `bench/results.json` (the figures now). Do not edit it by hand.\n\n\
    - `make bench` builds what it needs and measures everything within 15 minutes; `make bench ONLY=start_ms` measures one \
    figure. `make bench-long` measures the same with more runs.\n\
    - Each figure is the median of several runs of the release build, and its reference is measured between these runs, on \
    the same machine. A ratio therefore says more than the figure itself, and figures of two machines do not compare.\n\
    - \"Change\" is that of the ratio where a figure is a time or a rate and has a reference that is the same as before, because the machine of before may \
    have been a faster or a slower one; elsewhere it is that of the figure itself. The bars are drawn by the same measure.\n\
    - \"Worst\" is the value that 99 of 100 runs reach or better; with fewer than 100 runs it is the worst run.\n\
    - Data lies beside the programs, or in the folder that `DATA=/mnt/disk` names. A disk as sites have it, with a journal, says \
    more than one without.\n\
    - A change is **worse** or better when it is larger than 5 %; what is smaller is noise.\n\n\
    ## All figures\n\n";

fn of<'a>(figures: &'a [Figure], kind: &Kind) -> Option<&'a Figure> {
    figures.iter().find(|figure| figure.name == kind.name)
}

fn row(kind: &Kind, before: Option<&Figure>, now: Option<&Figure>) -> String {
    let value = |figure: Option<&Figure>| optional(figure.map(|figure| figure.value));
    format!(
        "| [`{0}`](#{0}) | {1} | {2} | {3} | {4} | {5} | {6} | {7} | {8} | {9} |\n",
        kind.name,
        kind.unit,
        value(before),
        value(now),
        optional(now.map(|figure| figure.p99)),
        optional(before.and_then(|figure| figure.reference_value)),
        optional(now.and_then(|figure| figure.reference_value)),
        optional(before.and_then(|figure| figure.ratio)),
        optional(now.and_then(|figure| figure.ratio)),
        change(kind, before, now),
    )
}

fn change(kind: &Kind, before: Option<&Figure>, now: Option<&Figure>) -> String {
    let (Some(before), Some(now)) = (before, now) else { return String::new() };
    let by_ratio = by_ratio(kind, Some(before), Some(now));
    let (before, now) = (judged(before, by_ratio), judged(now, by_ratio));
    if before == 0.0 {
        return if now == 0.0 { "same".to_owned() } else { "was 0".to_owned() };
    }
    let percent = (now / before - 1.0) * 100.0;
    match compare(kind.better, before, now) {
        Change::Same => "same".to_owned(),
        Change::Better => format!("{percent:+.0} %"),
        Change::Worse => format!("**worse: {percent:+.0} %**"),
    }
}

/// Whether figures are judged by their ratios: those that depend on the machine, where each of them has one, to the same
/// reference.
fn by_ratio(kind: &Kind, before: Option<&Figure>, now: Option<&Figure>) -> bool {
    if let (Some(before), Some(now)) = (before, now)
        && before.reference != now.reference
    {
        return false;
    }
    matches!(kind.unit, "ms" | "1/s") && before.into_iter().chain(now).all(|figure| figure.ratio.is_some())
}

fn judged(figure: &Figure, by_ratio: bool) -> f64 {
    figure.ratio.filter(|_| by_ratio).unwrap_or(figure.value)
}

fn section(kind: &Kind, before: Option<&Figure>, now: Option<&Figure>) -> String {
    let better = match kind.better {
        Better::Lower => "Lower is better.",
        Better::Higher => "Higher is better.",
    };
    let mut text = format!("\n### {}\n\n{} {better}\n", kind.name, kind.includes);
    if let Some(reference) = kind.reference {
        write!(text, "\nReference: {reference}.\n").expect("writing to a String cannot fail");
    }
    if let Some(disk) = now.and_then(|figure| figure.disk.as_ref()) {
        write!(text, "\nMeasured on {disk}.\n").expect("writing to a String cannot fail");
    }
    let bars = bars(kind, before, now);
    let longest = bars.iter().map(|(_, length, _)| *length).fold(0.0, f64::max);
    text.push_str("\n```text\n");
    for (label, length, words) in bars {
        writeln!(text, "{label:<10}{} {words}", bar(length, longest)).expect("writing to a String cannot fail");
    }
    text.push_str("```\n");
    text
}

/// Label, length and words of each bar: by the same measure as the change, so that the eye and the table say the same.
fn bars(kind: &Kind, before: Option<&Figure>, now: Option<&Figure>) -> Vec<(&'static str, f64, String)> {
    let by_ratio = by_ratio(kind, before, now);
    let with_unit = |value: f64| format!("{value} {}", kind.unit);
    let mut bars = Vec::new();
    for (label, figure) in [("before", before), ("now", now)] {
        let Some(figure) = figure else { continue };
        let words = match figure.ratio {
            Some(ratio) if by_ratio => format!("{ratio} times the reference ({})", with_unit(figure.value)),
            _ => with_unit(figure.value),
        };
        bars.push((label, judged(figure, by_ratio), words));
    }
    if let Some(value) = now.or(before).and_then(|figure| figure.reference_value) {
        bars.push(if by_ratio { ("reference", 1.0, "1".to_owned()) } else { ("reference", value, with_unit(value)) });
    }
    bars
}

/// A bar in whole cells; what is not nothing has at least one.
fn bar(value: f64, longest: f64) -> String {
    let cells = if longest > 0.0 { (value / longest * BAR).round() as usize } else { 0 };
    "█".repeat(if value > 0.0 { cells.max(1) } else { 0 })
}

fn optional(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::find;

    fn figure(name: &str, value: f64) -> Figure {
        beside(name, value, 10.0)
    }

    fn beside(name: &str, value: f64, reference: f64) -> Figure {
        Figure::new(find(name).unwrap(), &[value], &[reference]).unwrap()
    }

    #[test]
    fn worse_depends_on_the_direction_and_noise_is_no_change() {
        assert_eq!(compare(Better::Lower, 100.0, 90.0), Change::Better);
        assert_eq!(compare(Better::Lower, 100.0, 104.0), Change::Same);
        assert_eq!(compare(Better::Lower, 100.0, 106.0), Change::Worse);
        assert_eq!(compare(Better::Higher, 100.0, 90.0), Change::Worse);
        assert_eq!(compare(Better::Higher, 100.0, 110.0), Change::Better);
    }

    #[test]
    fn what_got_worse_is_marked_and_what_was_not_measured_stays_empty() {
        let before = [figure("start_ms", 100.0), figure("reports_per_second", 1_000.0)];
        let now = [figure("start_ms", 150.0), figure("reports_per_second", 1_500.0)];
        let text = document(&before, &now);
        assert!(
            text.contains("| [`start_ms`](#start_ms) | ms | 100 | 150 | 150 | 10 | 10 | 10 | 15 | **worse: +50 %** |"),
            "{text}"
        );
        assert!(text.contains("| 1000 | 1500 | 1500 | 10 | 10 | 100 | 150 | +50 % |"), "{text}");
        assert!(text.contains("| [`accepted_ms`](#accepted_ms) | ms |  |  |  |  |  |  |  |  |"), "{text}");
    }

    #[test]
    fn a_slower_machine_is_no_change_and_makes_no_memory_better() {
        let change = |before: Figure, now: Figure| change(find(&now.name).unwrap(), Some(&before), Some(&now));
        assert_eq!(change(beside("start_ms", 100.0, 10.0), beside("start_ms", 150.0, 15.0)), "same");
        let memory = |value, reference| beside("hub_memory_10k_orders_mib", value, reference);
        assert_eq!(change(memory(100.0, 50.0), memory(150.0, 75.0)), "**worse: +50 %**");
    }

    #[test]
    fn bars_say_what_the_change_says() {
        let lengths = |name: &str, before: (f64, f64), now: (f64, f64)| {
            let (before, now) = (beside(name, before.0, before.1), beside(name, now.0, now.1));
            let bars = bars(find(name).unwrap(), Some(&before), Some(&now));
            bars.into_iter().map(|(_, length, _)| length).collect::<Vec<_>>()
        };
        assert_eq!(lengths("start_ms", (100.0, 10.0), (150.0, 50.0)), [10.0, 3.0, 1.0]);
        assert_eq!(lengths("hub_memory_10k_orders_mib", (100.0, 10.0), (150.0, 50.0)), [100.0, 150.0, 50.0]);
        assert!(bars(find("start_ms").unwrap(), None, None).is_empty());
    }

    #[test]
    fn bars_are_in_proportion_and_never_vanish() {
        assert_eq!(bar(10.0, 10.0).chars().count(), 40);
        assert_eq!(bar(5.0, 10.0).chars().count(), 20);
        assert_eq!(bar(0.001, 10.0).chars().count(), 1);
        assert_eq!(bar(0.0, 0.0), "");
    }

    #[test]
    fn the_table_has_a_line_for_each_figure() {
        let text = table(&[figure("start_ms", 200.0), figure("edge_node_pss_mib", 4.5)]);
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().nth(1).unwrap().contains("200"), "{text}");
        assert!(!text.lines().nth(2).unwrap().contains("10 "), "a figure without a reference shows none: {text}");
    }
}
