//! Closed forms of mean response times, for arrivals at random and sizes of mean 1 s.

/// M/M/1, first in, first out.
pub fn fifo(rho: f64) -> f64 {
    1.0 / (1.0 - rho)
}

/// M/M/1, the shortest first, not preempted: 1 + the mean over sizes x of lambda E[S^2] / 2 (1 - load under x)^2.
pub fn sjf(rho: f64) -> f64 {
    1.0 + integral(|x| rho / (1.0 - rho * work_below(x)).powi(2) * density(x))
}

/// M/M/1, the shortest remaining time first, preempted.
pub fn srpt(rho: f64) -> f64 {
    let mut in_service = 0.0;
    integral(|x| {
        // The second moment of sizes cut off at x.
        let cut = 2.0 * (1.0 - (-x).exp() * (1.0 + x));
        let waits = rho * cut / 2.0 / (1.0 - rho * work_below(x)).powi(2);
        in_service += STEP / (1.0 - rho * work_below(x - STEP / 2.0));
        (waits + in_service) * density(x)
    })
}

/// M/M/k, first in, first out.
pub fn erlang_c(servers: u32, rho: f64) -> f64 {
    let k = f64::from(servers);
    // Erlang's B by its recursion, which needs no factorials.
    let blocked = (1..=servers).fold(1.0, |b, n| rho * k * b / (f64::from(n) + rho * k * b));
    let waits = blocked / (1.0 - rho * (1.0 - blocked));
    1.0 + waits / (k * (1.0 - rho))
}

/// The part of all work that is in tasks of sizes up to x, of the exponential distribution.
fn work_below(x: f64) -> f64 {
    1.0 - (-x).exp() * (1.0 + x)
}

fn density(x: f64) -> f64 {
    (-x).exp()
}

/// Where the integrals end: e^-40 lies beyond.
const END: f64 = 40.0;
const STEP: f64 = 1e-4;

/// From 0 to [`END`], visited in that order.
fn integral(mut of: impl FnMut(f64) -> f64) -> f64 {
    let steps = (END / STEP) as u32;
    (0..steps).map(|n| of((f64::from(n) + 0.5) * STEP) * STEP).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closed_forms_are_those_of_the_books() {
        for (name, value, wanted) in [
            ("fifo", fifo(0.9), 10.0),
            ("sjf", sjf(0.9), 4.197),
            ("srpt", srpt(0.9), 3.552),
            ("erlang 0.7", erlang_c(8, 0.7), 1.1128),
            ("erlang 0.9", erlang_c(8, 0.9), 1.8769),
            ("erlang 0.95", erlang_c(8, 0.95), 3.1104),
            ("one server", erlang_c(1, 0.5), fifo(0.5)),
        ] {
            assert!((value / wanted - 1.0).abs() < 2e-4, "{name}: {value}, wanted {wanted}");
        }
    }
}
