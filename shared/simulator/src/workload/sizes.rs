//! The sizes of the five workloads, in seconds with mean 1.

use super::{Stream, Workload, chance, uniform};
use rand_distr::{Distribution, Exp1, StandardNormal};
use rand_pcg::Pcg64;

/// Task types; only `azure` has more than one.
pub(super) const TYPES: u32 = 200;
/// The largest size of a bounded Pareto distribution over the least.
const PARETO_RANGE: f64 = 1e4;
/// Azure's functions: mean and deviation of the logarithm of their mean run times, in seconds.
const AZURE_LOG_MEAN: f64 = -0.38;
const AZURE_LOG_DEVIATION: f64 = 2.36;
/// How steeply popularity falls with the rank.
const AZURE_ZIPF: f64 = 0.8;
/// The least and the largest size, in seconds, before the mean is made 1.
const AZURE_BOUNDS: (f64, f64) = (0.001, 600.0);

/// A distribution of sizes.
pub(super) enum Sizes {
    Exp,
    Pareto { alpha: f64 },
    Azure { log_means: Vec<f64>, cumulative: Vec<f64> },
}

impl Sizes {
    pub(super) fn new(workload: Workload, seed: u64) -> Self {
        match workload {
            Workload::Exp => Self::Exp,
            Workload::Bp15 => Self::Pareto { alpha: 1.5 },
            Workload::Bp13 => Self::Pareto { alpha: 1.3 },
            Workload::Bp11 => Self::Pareto { alpha: 1.1 },
            Workload::Azure => azure(&mut chance(seed, Stream::Kinds)),
        }
    }

    /// So many sizes, with the types of their tasks.
    pub(super) fn draw(&self, tasks: usize, chance: &mut Pcg64) -> Vec<(f64, u32)> {
        match self {
            Self::Exp => (0..tasks).map(|_| (Exp1.sample(chance), 0)).collect(),
            Self::Pareto { alpha } => {
                let least = pareto_least(*alpha);
                let spread = 1.0 - PARETO_RANGE.powf(-alpha);
                let size = |drawn: f64| least * (1.0 - drawn * spread).powf(-1.0 / alpha);
                (0..tasks).map(|_| (size(uniform(chance)), 0)).collect()
            }
            Self::Azure { log_means, cumulative } => {
                let mut sizes: Vec<(f64, u32)> =
                    (0..tasks).map(|_| azure_task(log_means, cumulative, chance)).collect();
                // A few giants are much of the work, so that the mean is that of the sample.
                let mean = sizes.iter().map(|(size, _)| size).sum::<f64>() / tasks as f64;
                sizes.iter_mut().for_each(|(size, _)| *size /= mean);
                sizes
            }
        }
    }
}

/// The least size of a bounded Pareto distribution with mean 1.
fn pareto_least(alpha: f64) -> f64 {
    let mean = alpha / (alpha - 1.0) * (1.0 - PARETO_RANGE.powf(1.0 - alpha)) / (1.0 - PARETO_RANGE.powf(-alpha));
    1.0 / mean
}

fn azure(chance: &mut Pcg64) -> Sizes {
    let mut log_means: Vec<f64> =
        normal_middles(TYPES).into_iter().map(|z| AZURE_LOG_MEAN + AZURE_LOG_DEVIATION * z).collect();
    let mut shuffled: Vec<(f64, f64)> = log_means.iter().map(|mean| (uniform(chance), *mean)).collect();
    shuffled.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    log_means.iter_mut().zip(shuffled).for_each(|(mean, (_, of))| *mean = of);
    let mut sum = 0.0;
    let weights = (1..=TYPES).map(|rank| f64::from(rank).powf(-AZURE_ZIPF));
    let cumulative = weights.map(|weight| {
        sum += weight;
        sum
    });
    Sizes::Azure { log_means, cumulative: cumulative.collect() }
}

fn azure_task(log_means: &[f64], cumulative: &[f64], chance: &mut Pcg64) -> (f64, u32) {
    let all = cumulative.last().copied().unwrap_or(1.0);
    let drawn = uniform(chance) * all;
    let place = cumulative.partition_point(|sum| *sum <= drawn).min(log_means.len() - 1);
    let deviation: f64 = StandardNormal.sample(chance);
    // Less half the variance, so that the mean of the type is e^log_mean.
    let size = (log_means[place] + deviation - 0.5).exp();
    (size.clamp(AZURE_BOUNDS.0, AZURE_BOUNDS.1), place as u32)
}

/// The points of the standard normal distribution that have (i + 1/2) / n below them.
fn normal_middles(n: u32) -> Vec<f64> {
    /// So fine that the sum of rectangles is right to seven digits.
    const STEP: f64 = 1e-4;
    let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let (mut x, mut below) = (-8.0, 0.0);
    let middles = (0..n).map(|i| {
        let wanted = (f64::from(i) + 0.5) / f64::from(n);
        while below < wanted {
            below += density(x + STEP / 2.0) * STEP;
            x += STEP;
        }
        x - (below - wanted) / density(x)
    });
    middles.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(workload: Workload, tasks: usize) -> Vec<(f64, u32)> {
        Sizes::new(workload, 7).draw(tasks, &mut chance(7, Stream::Sizes))
    }

    #[test]
    fn every_workload_has_mean_1() {
        for (workload, within) in
            [(Workload::Exp, 0.01), (Workload::Bp15, 0.05), (Workload::Bp13, 0.15), (Workload::Azure, 1e-9)]
        {
            let sizes = drawn(workload, 200_000);
            let mean = sizes.iter().map(|(size, _)| size).sum::<f64>() / sizes.len() as f64;
            assert!((mean - 1.0).abs() < within, "{workload}: {mean}");
        }
    }

    #[test]
    fn a_bounded_pareto_stays_within_its_bounds() {
        let least = pareto_least(1.1);
        for (size, _) in drawn(Workload::Bp11, 200_000) {
            assert!(size >= least && size <= least * PARETO_RANGE * 1.000_001, "{size}");
        }
        // Mean 1 and nothing else: the integral of x f(x) between the bounds.
        assert!((pareto_least(1.5) - 1.0 / (3.0 * 0.99 / (1.0 - 1e-6))).abs() < 1e-9);
    }

    #[test]
    fn azure_has_types_of_which_some_are_popular() {
        let mut counts = [0; TYPES as usize];
        drawn(Workload::Azure, 100_000).iter().for_each(|(_, of)| counts[*of as usize] += 1);
        assert!(counts.iter().all(|count| *count > 0));
        assert!(counts[0] > 20 * counts[199], "{} {}", counts[0], counts[199]);
    }

    #[test]
    fn the_middles_of_the_normal_distribution_are_where_tables_have_them() {
        let middles = normal_middles(200);
        for (place, wanted) in [(0, -2.807_034), (99, -0.006_267), (100, 0.006_267), (194, 1.918_876)] {
            assert!((middles[place] - wanted).abs() < 1e-5, "{place}: {} for {wanted}", middles[place]);
        }
    }
}
