//! Minimum, median and maximum of what the rounds gave.

use serde::Serialize;

/// The values of one figure of one peer, a value a round, in the order in which they were taken.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// The values.
    pub rounds: Vec<f64>,
    /// The smallest.
    pub min: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Sums up; `None` without a finite value.
    pub fn of(values: &[f64]) -> Option<Self> {
        let rounds: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        let min = quantile(&rounds, 0.0)?;
        let max = quantile(&rounds, 1.0)?;
        let median = quantile(&rounds, 0.5)?;
        Some(Self { rounds, min, median, max })
    }
}

/// The value below which this share of the samples lies, interpolated; `None` without samples.
pub fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_number_of_rounds_has_a_middle_one() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).unwrap();

        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
        assert_eq!(spread.rounds, [3.0, 1.0, 2.0]);
    }

    #[test]
    fn an_even_number_of_rounds_takes_the_mean_of_two() {
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 10.0]).unwrap().median, 3.0);
    }

    #[test]
    fn nothing_measured_is_no_figure() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[f64::NAN]), None);
    }

    #[test]
    fn a_high_quantile_is_interpolated() {
        let samples: Vec<f64> = (0..=100).map(f64::from).collect();

        assert_eq!(quantile(&samples, 0.99), Some(99.0));
        assert_eq!(quantile(&[1.0, 2.0], 0.75), Some(1.75));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
