//! What one figure is made of: samples, their median and percentile, and the reference beside them.

use serde::{Deserialize, Serialize};

/// One measured figure, as `bench/results.json` lists them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// One of the names of the catalogue.
    pub name: String,
    /// The median of the runs.
    pub value: f64,
    /// What `value`, `p50`, `p99` and `reference_value` are counted in.
    pub unit: String,
    /// The same as `value`.
    pub p50: f64,
    /// What 99 of 100 runs reach or better: the slow end, whether high or low numbers are slow. With fewer than 100 runs
    /// this is the worst run.
    pub p99: f64,
    /// What the reference is; absent where there is none.
    pub reference: Option<String>,
    /// The median of the reference, measured in the same run.
    pub reference_value: Option<f64>,
    /// `value` divided by `reference_value`; absent where there is no reference.
    pub ratio: Option<f64>,
    /// How often it was measured.
    pub runs: usize,
    /// The file system that held the data; absent where that was not noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
}

/// Which direction is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

/// What is known of a figure before it is measured.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
    /// Whole sentences for `docs/performance.md`.
    pub includes: &'static str,
    pub reference: Option<&'static str>,
}

impl Figure {
    /// Makes a figure of its samples and those of its reference. Returns `None` without samples.
    pub fn new(kind: &Kind, samples: &[f64], references: &[f64]) -> Option<Self> {
        let value = round(median(samples)?);
        let reference_value = median(references).map(round).filter(|_| kind.reference.is_some());
        Some(Self {
            name: kind.name.to_owned(),
            value,
            unit: kind.unit.to_owned(),
            p50: value,
            p99: round(percentile(samples, 0.99, kind.better)?),
            reference: kind.reference.map(str::to_owned),
            reference_value,
            ratio: reference_value.filter(|reference| *reference != 0.0).map(|reference| round(value / reference)),
            runs: samples.len(),
            disk: None,
        })
    }
}

/// The middle sample, or the mean of the two in the middle.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// The sample that this share of all samples reaches or betters (nearest rank).
pub fn percentile(samples: &[f64], share: f64, better: Better) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    if better == Better::Higher {
        sorted.reverse();
    }
    let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}

/// Four digits: more would be noise, and make every run a long diff.
fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind =
        Kind { name: "x", unit: "ms", better: Better::Lower, includes: "", reference: Some("something else") };

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 4.0]), Some(4.0));
        assert_eq!(median(&[1.0, 9.0, 3.0, 5.0]), Some(4.0));
    }

    #[test]
    fn the_99th_percentile_is_at_the_slow_end() {
        let samples: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&samples, 0.99, Better::Lower), Some(99.0));
        assert_eq!(percentile(&samples, 0.99, Better::Higher), Some(2.0));
        assert_eq!(percentile(&[5.0, 7.0, 6.0], 0.99, Better::Lower), Some(7.0));
        assert_eq!(percentile(&[5.0, 7.0, 6.0], 0.99, Better::Higher), Some(5.0));
        assert_eq!(percentile(&[], 0.99, Better::Lower), None);
    }

    #[test]
    fn a_figure_stands_beside_its_reference() {
        let figure = Figure::new(&KIND, &[10.0, 30.0, 20.0], &[5.0, 5.0, 4.0]).unwrap();
        assert_eq!((figure.value, figure.p50, figure.p99, figure.runs), (20.0, 20.0, 30.0, 3));
        assert_eq!((figure.reference_value, figure.ratio), (Some(5.0), Some(4.0)));
        assert_eq!(Figure::new(&KIND, &[], &[1.0]), None);
        let alone = Figure::new(&KIND, &[1.0], &[]).unwrap();
        assert_eq!((alone.reference_value, alone.ratio), (None, None));
        let idle = Figure::new(&KIND, &[1.0], &[0.0]).unwrap();
        assert_eq!((idle.reference_value, idle.ratio), (Some(0.0), None));
    }

    #[test]
    fn numbers_keep_four_digits() {
        assert_eq!([61.23456, 123_456.0, 0.001_234_56, 0.0].map(round), [61.23, 123_500.0, 0.001_235, 0.0]);
    }
}
