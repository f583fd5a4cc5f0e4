//! The plot has every policy in it, whatever the figures are.

use crate::{arrivals, load};
use jetlane_simulator::plot::{Caption, svg};
use jetlane_simulator::{Policy, Settings, Workload, simulate_all};

fn caption() -> Caption {
    Caption { title: "The title".into(), settings: "5 < 7 & more".into() }
}

#[test]
fn the_plot_names_every_policy_and_is_whole() {
    let drawn = load(Workload::Bp11, 3_000).arrivals().expect("in range");
    let figures = simulate_all(&drawn, &Policy::all(), &Settings::default()).expect("they end");
    let picture = svg(&caption(), drawn.mean_size(), &figures).expect("drawn");
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    for word in ["The title", "5 &lt; 7 &amp; more", "ideal srpt", "adaptive", "fifo", "Mean response", "p99 slowdown"]
    {
        assert!(picture.contains(word), "{word} is missing");
    }
    assert!(!picture.contains("NaN") && !picture.contains("inf"), "a place that no picture has");
}

#[test]
fn figures_that_are_all_alike_can_be_drawn_and_none_cannot() {
    for tasks in [&[(0.0, 1.0)][..], &[(0.0, 0.000_01), (9.0, 0.000_01)], &[(0.0, 80_000.0), (1e6, 80_000.0)]] {
        let few = arrivals(tasks);
        let figures = simulate_all(&few, &Policy::all()[..1], &Settings::default()).expect("they end");
        let picture = svg(&caption(), few.mean_size(), &figures).expect("drawn");
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }
    assert!(svg(&caption(), 1.0, &[]).is_err());
}
