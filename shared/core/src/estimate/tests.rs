//! What holds of estimates: learned, leaned on, forgotten.

use super::*;
use proptest::prelude::*;

fn name(text: &str) -> TaskType {
    TaskType::new(text).expect("valid")
}

fn learned(times: &[u64]) -> Estimates {
    let mut estimates = Estimates::default();
    times.iter().for_each(|time| estimates.observe(&name("a"), None, Micros(*time), Observed::Whole));
    estimates
}

fn mean(estimates: &Estimates, of: &str) -> u64 {
    estimates.expect(&name(of), None, None).mean.0
}

fn within(value: u64, wanted: u64, percent: u64) -> bool {
    value.abs_diff(wanted) * 100 <= wanted * percent
}

#[test]
fn a_type_that_always_takes_as_long_is_expected_to() {
    assert!(within(mean(&learned(&[5_000; 100]), "a"), 5_000, 3));
}

/// After 200 runs of these times with these hints: the median expected of the hint.
fn after_hints(times: impl Fn(u64) -> (u64, u64), hint: u64) -> u64 {
    let mut estimates = Estimates::default();
    for n in 0..200 {
        let (time, hint) = times(n);
        estimates.observe(&name("a"), None, Micros(time), Observed::Whole);
        estimates.observe_hint(&name("a"), Micros(hint), Micros(time));
    }
    estimates.expect(&name("a"), None, Some(Micros(hint))).p50.0
}

#[test]
fn a_first_task_is_expected_by_its_hint() {
    let hint = Some(Micros(9_000_000));
    assert!(within(Estimates::default().expect(&name("a"), None, hint).mean.0, 9_000_000, 1));
}

#[test]
fn good_hints_decide_alone_even_where_they_are_off_by_a_constant_factor() {
    let spread = |n: u64| 1_000 << (n * 7 % 10);
    let expected = after_hints(|n| (3 * spread(n), spread(n)), 64_000);
    assert!(within(expected, 192_000, 10), "{expected}");
}

#[test]
fn hints_that_are_noise_say_nothing() {
    let expected = after_hints(|n| (5_000 + n % 7, 10 << (n * 7 % 20)), 1_000_000);
    assert!(within(expected, 5_000, 10), "{expected}");
}

#[test]
fn an_unknown_type_is_expected_like_all_others() {
    assert!(within(mean(&learned(&[5_000; 100]), "unknown"), 5_000, 10));
}

#[test]
fn types_that_differ_by_far_make_no_estimate_of_one_too_large() {
    let mut estimates = Estimates::default();
    estimates.observe(&name("echo"), None, Micros(20), Observed::Whole);
    for _ in 0..16 {
        estimates.observe(&name("a"), None, Micros(2_000_000), Observed::Whole);
    }
    assert!(within(mean(&estimates, "a"), 2_000_000, 20), "{}", mean(&estimates, "a"));
}

#[test]
fn a_size_key_has_an_estimate_of_its_own() {
    let mut estimates = Estimates::default();
    for _ in 0..100 {
        estimates.observe(&name("a"), Some("small"), Micros(1_000), Observed::Whole);
        estimates.observe(&name("a"), Some("large"), Micros(1_000_000), Observed::Whole);
    }
    let of = |key| estimates.expect(&name("a"), Some(key), None).mean.0;
    assert!(of("small") < 3_000 && of("large") > 400_000, "{} {}", of("small"), of("large"));
}

#[test]
fn a_type_that_breaks_early_does_not_look_short() {
    let mut estimates = learned(&[1_000_000; 100]);
    for _ in 0..100 {
        estimates.observe(&name("a"), None, Micros(1_000), Observed::AtLeast);
    }
    assert!(mean(&estimates, "a") > 900_000, "{}", mean(&estimates, "a"));
}

#[test]
fn run_times_that_have_changed_for_good_are_learned_anew_quickly() {
    let mut estimates = learned(&[1_000; 500]);
    for _ in 0..30 {
        estimates.observe(&name("a"), None, Micros(1_000_000), Observed::Whole);
    }
    assert!(estimates.expect(&name("a"), None, None).p50.0 > 300_000);
}

#[test]
fn what_is_kept_is_taken_up_again() {
    let estimates = learned(&[5_000; 100]);
    let kept = estimates.snapshot(Micros(7), &name("a")).expect("known");
    let mut again = Estimates::default();
    again.restore(&name("a"), &kept);
    assert!(within(mean(&again, "a"), mean(&estimates, "a"), 1));
    assert!(within((kept.all.mean_ms() * 1000.0) as u64, 5_000, 1));
}

#[test]
fn no_run_times_that_cannot_be_are_believed() {
    for (mu, variance) in [(1e308, 0.0), (25.0, 1e300), (f64::NAN, 1.0), (5.0, -1.0)] {
        let mut estimates = Estimates::default();
        let all = RunTimes { runs: 64, mu, variance };
        estimates.restore(&name("a"), &EstimateEntry { all, ..EstimateEntry::default() });
        for _ in 0..30 {
            estimates.observe(&name("a"), None, Micros(5_000), Observed::Whole);
        }
        assert!(within(mean(&estimates, "a"), 5_000, 60), "{mu} {variance}: {}", mean(&estimates, "a"));
    }
}

#[test]
fn types_and_keys_beyond_the_bounds_push_out_those_seen_longest_ago() {
    let mut estimates = Estimates::default();
    for n in 0..TYPES_MAX + 5 {
        estimates.observe(&name(&format!("t{n}")), None, Micros(1), Observed::Whole);
    }
    for n in 0..SIZE_KEYS_MAX + 5 {
        estimates.observe(&name("a"), Some(&n.to_string()), Micros(1), Observed::Whole);
    }
    assert!(estimates.types.len() <= TYPES_MAX && !estimates.types.contains_key(&name("t0")));
    let sizes = &estimates.types[&name("a")].sizes;
    assert!(sizes.len() <= SIZE_KEYS_MAX && !sizes.contains_key("0"));
}

proptest! {
    #[test]
    fn no_times_and_nothing_kept_make_an_estimate_of_nothing(
        times in proptest::collection::vec(any::<u64>(), 0..50), mu: f64, variance: f64, hint: Option<u64>,
    ) {
        let mut estimates = learned(&times);
        let all = RunTimes { runs: u64::MAX, mu, variance };
        estimates.restore(&name("b"), &EstimateEntry { all, ..EstimateEntry::default() });
        for of in ["a", "b", "c"] {
            let estimate = estimates.expect(&name(of), None, hint.map(Micros));
            prop_assert!(estimate.mean.0 >= 1 && estimate.mean.0 <= 86_400_000_000);
        }
    }
}

#[test]
fn full_table_of_types_keeps_the_one_that_is_observed_again() {
    let mut estimates = Estimates::default();
    let name = |n: usize| TaskType::new(format!("t{n}")).expect("valid");
    for n in 0..TYPES_MAX {
        estimates.observe(&name(n), None, Micros(1_000), Observed::Whole);
    }
    // The oldest is observed again: nobody has to leave, least of all itself.
    estimates.observe(&name(0), None, Micros(1_000), Observed::Whole);
    assert_eq!(estimates.types.len(), TYPES_MAX);
    assert_eq!(estimates.types[&name(0)].all.times.runs, 2);
    let mut kept = estimates.snapshot(Micros(1), &name(1)).expect("known");
    kept.all.runs = 9;
    estimates.restore(&name(1), &kept);
    assert_eq!((estimates.types.len(), estimates.types[&name(1)].all.times.runs), (TYPES_MAX, 9));
}
