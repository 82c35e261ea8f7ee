//! Whether a benchmark reaches its goal. The benchmarks have a `main` of their own, in which no unit test would run.

#[path = "../benches/figures.rs"]
#[allow(dead_code)]
mod figures;

use figures::{Figure, Goal, Spread, Verdict};

fn verdict(values: &[f64], goal: Goal) -> Verdict {
    Figure::plain("section", "figure", "ns", values).goal(goal).reached().expect("a verdict")
}

#[test]
fn a_goal_inside_the_rounds_is_open() {
    assert_eq!(verdict(&[1.25, 1.20, 1.22], Goal::AtLeast(1.2)), Verdict::Reached);
    assert_eq!(verdict(&[1.25, 1.19, 1.22], Goal::AtLeast(1.2)), Verdict::Open);
    assert_eq!(
        verdict(&[1.15, 1.20, 1.17], Goal::AtLeast(1.2)),
        Verdict::Open,
        "the median misses, one round does not"
    );
    assert_eq!(verdict(&[1.15, 1.19, 1.17], Goal::AtLeast(1.2)), Verdict::Missed);
    assert_eq!(verdict(&[280.0, 300.0, 290.0], Goal::AtMost(300.0)), Verdict::Reached);
    assert_eq!(verdict(&[280.0, 301.0, 290.0], Goal::AtMost(300.0)), Verdict::Open);
    assert_eq!(verdict(&[310.0, 301.0, 320.0], Goal::AtMost(300.0)), Verdict::Missed);
}

#[test]
fn the_goal_of_a_ratio_judges_the_ratio_of_each_round() {
    // Both sides are twice as fast in the second round. That says nothing about their ratio.
    let figure = Figure::ratio("section", "figure", "/s", &[90.0, 180.0, 91.0], &[100.0, 200.0, 100.0]);
    assert_eq!(figure.clone().goal(Goal::AtLeast(0.9)).reached(), Some(Verdict::Reached));
    assert_eq!(figure.clone().goal(Goal::AtLeast(0.905)).reached(), Some(Verdict::Open));
    assert_eq!(figure.reached(), None, "without a goal there is no verdict");
}

#[test]
fn too_few_rounds_decide_nothing_unless_one_value_is_enough() {
    assert_eq!(verdict(&[], Goal::AtLeast(1.0)), Verdict::Open);
    assert_eq!(verdict(&[2.0, 2.0], Goal::AtLeast(1.0)), Verdict::Open);
    let count = Figure::plain("section", "figure", "instructions", &[2.0]).once();
    assert_eq!(count.clone().goal(Goal::AtLeast(1.0)).reached(), Some(Verdict::Reached));
    assert_eq!(count.goal(Goal::AtLeast(3.0)).reached(), Some(Verdict::Missed));
}

#[test]
fn of_nine_rounds_one_outlier_on_each_side_does_not_count() {
    let rounds = |n: usize| [&[0.1, 9.0][..], &vec![1.0; n - 2]].concat();
    assert_eq!(verdict(&rounds(8), Goal::AtLeast(0.9)), Verdict::Open);
    assert_eq!(verdict(&rounds(9), Goal::AtLeast(0.9)), Verdict::Reached);
    assert_eq!(verdict(&rounds(9), Goal::AtLeast(1.1)), Verdict::Missed);
    // From twelve rounds on two do not count.
    let two_low = |n: usize| [&[0.1, 0.2][..], &vec![1.0; n - 2]].concat();
    assert_eq!(verdict(&two_low(11), Goal::AtLeast(0.9)), Verdict::Open);
    assert_eq!(verdict(&two_low(12), Goal::AtLeast(0.9)), Verdict::Reached);
}

#[test]
fn noise_is_the_range_in_percent_of_the_median() {
    assert_eq!(Spread::of(&[90.0, 100.0, 120.0]).noise(), Some(30.0));
    assert_eq!(Spread::of(&[-90.0, -100.0, -120.0]).noise(), Some(30.0));
    assert_eq!(Spread::of(&[100.0]).noise(), None, "one value does not say how noisy it is");
    assert_eq!(Spread::of(&[-1.0, 0.0, 1.0]).noise(), None);
    let figure = Figure::ratio("section", "figure", "/s", &[80.0, 100.0, 120.0], &[100.0, 100.0, 100.0]);
    assert_eq!(figure.clone().goal(Goal::AtLeast(1.0)).cells()[5..], ["40 %", "≥ 1.00", "open"]);
    assert_eq!(figure.json()["baseline"]["noise_percent"], 0.0);
}
