//! The bars in short: three seeds of 40,000 tasks. So few tasks hold few giants, and ratios scatter: what
//! is to be gained may fall short by 60 % here, and what may be lost may exceed its bound by half of it.
//! The example `bars` measures them whole.

use jetlane_simulator::bars::{Bar, Effort, Wanted, adaptive, sizes};

const SHORT: Effort = Effort { seeds: 3, tasks: 40_000 };

fn hold(bars: &[Bar]) {
    let margin = |bar: &Bar| if matches!(bar.wanted, Wanted::AtLeast(_)) { 0.6 } else { 0.5 };
    let failed: Vec<String> = bars
        .iter()
        .filter(|bar| !bar.holds_within(margin(bar)))
        .map(|bar| format!("{}: {:.3}, wanted {}", bar.name, bar.measured, bar.wanted))
        .collect();
    assert!(failed.is_empty(), "beyond the margin:\n{}", failed.join("\n"));
}

#[test]
fn sizes_are_worth_what_they_must_be_in_short() {
    hold(&sizes(SHORT).expect("they end"));
}

#[test]
fn fairness_costs_no_more_than_it_may_in_short() {
    hold(&adaptive(SHORT).expect("they end"));
}

#[test]
fn a_bar_that_is_not_reached_is_told() {
    let bar = |wanted, measured| Bar { name: "x".into(), wanted, measured, range: (measured, measured) };
    for (wanted, good, bad) in
        [(Wanted::AtLeast(2.0), 2.0, 1.9), (Wanted::AtMost(2.0), 2.0, 2.1), (Wanted::Near(2.0, 0.03), 1.95, 1.93)]
    {
        assert!(bar(wanted, good).holds() && !bar(wanted, bad).holds());
        assert!(bar(wanted, bad).holds_within(0.1) && !bar(wanted, f64::NAN).holds_within(0.1));
    }
}
