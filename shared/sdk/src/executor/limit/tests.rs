//! Time is a number here, and so is pressure.

use super::*;

const CALM: Pressure = Pressure { memory_used: 0.5, memory_stalled: 0.0, cpu_waited: 0.2 };
const MEMORY_SHORT: Pressure = Pressure { memory_used: 0.97, ..CALM };
const CPU_SHORT: Pressure = Pressure { cpu_waited: 0.95, ..CALM };

/// An executor whose runs and pressure the test makes.
struct Stage {
    limit: Limit,
    usual: Vec<Usual>,
    now: Duration,
    chance: u64,
}

impl Stage {
    fn new(slots: usize) -> Self {
        Self { limit: Limit::new(slots), usual: vec![Usual::default(); 4], now: Duration::ZERO, chance: 7 }
    }

    /// A number from 0 to 1, the same at every start (Knuth's MMIX generator).
    fn random(&mut self) -> f64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn ran(&mut self, kind: usize, ms: f64) {
        let took = Duration::from_secs_f64(ms / 1_000.0);
        if let Some(compared) = self.usual[kind].compare(self.now, took, self.limit.learning()) {
            self.limit.ended(self.now, compared);
        }
    }

    fn judge(&mut self, pressure: Pressure) -> Option<Moved> {
        self.now += JUDGE_EVERY;
        self.limit.judge(self.now, pressure)
    }

    /// Judges for so many seconds, with so many runs before each time.
    fn go_on(&mut self, seconds: u64, pressure: Pressure, runs: usize, mut run: impl FnMut(&mut Self)) -> usize {
        for _ in 0..seconds * 4 {
            (0..runs).for_each(|_| run(self));
            self.judge(pressure);
        }
        self.limit.limit()
    }
}

#[test]
fn memory_that_runs_short_halves_the_limit_at_once_and_again_while_it_lasts_down_to_one() {
    let mut stage = Stage::new(16);
    assert_eq!(stage.judge(CALM), None);
    assert_eq!(stage.judge(MEMORY_SHORT), Some(Moved { from: 16, to: 8, why: Why::Memory }));
    assert_eq!([stage.judge(MEMORY_SHORT), stage.judge(MEMORY_SHORT)], [None, None], "what was spared must show first");
    assert_eq!(stage.go_on(1, MEMORY_SHORT, 0, |_| {}), 4);
    assert_eq!(stage.go_on(60, MEMORY_SHORT, 0, |_| {}), 1);
    let stalled = Pressure { memory_stalled: 0.2, ..CALM };
    assert_eq!(Stage::new(16).judge(stalled).map(|moved| moved.to), Some(8), "standing still is short, too");
}

#[test]
fn what_memory_took_comes_back_step_by_step_and_not_before_memory_is_well_under_the_mark() {
    let mut stage = Stage::new(16);
    stage.go_on(60, MEMORY_SHORT, 0, |_| {});
    let between = Pressure { memory_used: 0.93, ..CALM };
    assert_eq!(stage.go_on(60, between, 0, |_| {}), 1);
    let mut before = 1;
    for _ in 0..4 * 60 {
        stage.judge(CALM);
        let now = stage.limit.limit();
        assert!(now == before || now == before + 1, "{before} to {now} in one step");
        before = now;
    }
    assert_eq!(before, 16);
}

#[test]
fn run_times_that_rise_lower_the_limit_and_it_recovers_when_they_fall() {
    let mut stage = Stage::new(16);
    assert_eq!(stage.go_on(60, CALM, 20, |stage| stage.ran(0, 40.0)), 16);
    let lowered = stage.go_on(3, CALM, 20, |stage| stage.ran(0, 160.0));
    assert!(lowered <= 8, "{lowered}");
    assert_eq!(stage.go_on(30, CALM, 20, |stage| stage.ran(0, 40.0)), 16);
}

#[test]
fn slow_runs_that_take_longer_lower_the_limit_although_few_end_between_two_judgements() {
    let mut stage = Stage::new(8);
    assert_eq!(stage.go_on(120, CALM, 1, |stage| stage.ran(0, 2_000.0)), 8);
    let lowered = stage.go_on(20, CALM, 1, |stage| stage.ran(0, 9_000.0));
    assert!(lowered <= 6, "{lowered}");
}

#[test]
fn a_mix_of_small_and_large_tasks_is_no_pressure_whichever_share_they_have() {
    let mut stage = Stage::new(16);
    let mix = |share_of_large: f64| {
        move |stage: &mut Stage| {
            let is_large = stage.random() < share_of_large;
            let ms = if is_large { 8_000.0 } else { 20.0 } * (0.9 + 0.2 * stage.random());
            stage.ran(usize::from(is_large), ms);
        }
    };
    for share in [0.01, 0.9, 0.5, 0.001, 0.99] {
        assert_eq!(stage.go_on(60, CALM, 20, mix(share)), 16, "{share} of them large");
    }
}

#[test]
fn sizes_that_vary_a_thousandfold_within_one_type_are_no_pressure() {
    // Bounded Pareto, alpha 1.1: nearly all are short and a few make up most of the work.
    let mut stage = Stage::new(16);
    for minute in 0..30 {
        let limit = stage.go_on(60, CALM, 10, |stage| {
            let u = stage.random();
            let ms = 10.0 * (1.0 - u * (1.0 - 1e-3_f64.powf(1.1))).powf(-1.0 / 1.1);
            stage.ran(0, ms);
        });
        assert!(limit >= 15, "{limit} after minute {minute}");
    }
}

#[test]
fn short_processors_alone_lower_nothing_and_make_the_comparison_stricter() {
    let steady = |stage: &mut Stage| stage.ran(0, 40.0);
    let a_third_longer = |stage: &mut Stage| stage.ran(0, 54.0);
    let mut stage = Stage::new(16);
    assert_eq!(stage.go_on(60, CALM, 20, steady), 16);
    assert_eq!(stage.go_on(60, CPU_SHORT, 20, steady), 16, "runs take no longer");
    assert_eq!(stage.go_on(10, CALM, 20, a_third_longer), 16, "within tolerance");

    let mut stage = Stage::new(16);
    stage.go_on(60, CALM, 20, steady);
    let lowered = stage.go_on(10, CPU_SHORT, 20, a_third_longer);
    assert!(lowered <= 8, "{lowered}");
    let still = stage.go_on(600, CPU_SHORT, 20, a_third_longer);
    assert!(still <= 8, "{still}: what goes on while processors are short is not usual");
    assert_eq!(stage.go_on(60, CALM, 20, steady), 16);
}

#[test]
fn run_times_alone_leave_a_quarter_of_the_slots_and_with_short_processors_they_do_not() {
    let least = |pressure| {
        let mut stage = Stage::new(16);
        stage.go_on(60, CALM, 20, |stage| stage.ran(0, 40.0));
        (0..40).map(|_| stage.go_on(1, pressure, 20, |stage| stage.ran(0, 400.0))).min().expect("forty")
    };
    assert_eq!(least(CALM), 4);
    assert_eq!(least(CPU_SHORT), 2);
}

#[test]
fn a_type_that_takes_longer_for_good_becomes_usual() {
    let mut stage = Stage::new(16);
    stage.go_on(60, CALM, 20, |stage| stage.ran(0, 40.0));
    assert_eq!(stage.go_on(600, CALM, 20, |stage| stage.ran(0, 160.0)), 16);
}

#[test]
fn an_idle_executor_forgets_why_it_was_lowered() {
    let mut stage = Stage::new(16);
    stage.go_on(60, CALM, 20, |stage| stage.ran(0, 40.0));
    assert!(stage.go_on(5, CALM, 20, |stage| stage.ran(0, 400.0)) < 8);
    assert_eq!(stage.go_on(60, CALM, 0, |_| {}), 16);
}

#[test]
fn runs_too_short_to_be_measured_say_nothing() {
    let mut stage = Stage::new(16);
    stage.go_on(60, CALM, 100, |stage| stage.ran(0, 0.02));
    assert_eq!(stage.go_on(10, CPU_SHORT, 100, |stage| stage.ran(0, 3.0)), 16);
    assert_eq!(stage.usual[0].0.runs, 0, "and cost nothing");
}

#[test]
fn the_limit_never_leaves_one_to_all_slots() {
    for slots in [1, 2, 7, 1_000] {
        let mut stage = Stage::new(slots);
        for _ in 0..5_000 {
            let pressure = Pressure {
                memory_used: stage.random() * 1.1,
                memory_stalled: stage.random() * 0.1,
                cpu_waited: stage.random(),
            };
            let ms = 1.0 + 1_000.0 * stage.random();
            (0..20).for_each(|_| stage.ran(1, ms));
            stage.judge(pressure);
            assert!((1..=slots).contains(&stage.limit.limit()));
        }
    }
}
