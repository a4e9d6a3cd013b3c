use proptest::prelude::*;

use super::*;
use crate::scenario::Stage;

fn scenario(users: u32, publish: Publish, stages: &[(u64, u32)]) -> Scenario {
    let stage = |&(ms, target)| Stage { duration: Duration::from_millis(ms), target };
    let stages = stages.iter().map(stage).collect();
    Scenario { users, publish, stages, ..Scenario::default() }
}

fn schedule(stages: &[(u64, u32)]) -> Schedule {
    Schedule::new(&scenario(100, Publish::Nothing, stages))
}

fn ms(range: Range<u64>) -> Range<Duration> {
    Duration::from_millis(range.start)..Duration::from_millis(range.end)
}

#[test]
fn users_join_in_order_and_leave_in_the_opposite_one() {
    let schedule = schedule(&[(1_000, 4), (2_000, 4), (400, 0)]);
    assert_eq!(schedule.active(0), [ms(0..3_400)]);
    assert_eq!(schedule.active(1), [ms(250..3_300)]);
    assert_eq!(schedule.active(3), [ms(750..3_100)]);
    assert_eq!(schedule.active(4), []);
    assert_eq!(schedule.end(), Duration::from_millis(3_400));
}

#[test]
fn neighbours_of_one_phase_are_merged() {
    let schedule = schedule(&[(100, 2), (100, 4), (50, 4), (50, 4), (0, 1), (20, 1), (10, 0)]);
    let expected = [
        (Phase::RampUp, ms(0..200)),
        (Phase::Plateau, ms(200..320)),
        (Phase::RampDown, ms(320..330)),
    ];
    assert_eq!(schedule.phases, expected);
}

#[test]
fn only_the_plateau_counts_where_there_is_one() {
    let with = schedule(&[(100, 0), (100, 4), (100, 4), (100, 0)]);
    let counts = [50, 150, 200, 299, 300].map(|it| with.is_measured(Duration::from_millis(it)));
    assert_eq!(counts, [false, false, true, true, false]);
    let without = schedule(&[(100, 4), (100, 0)]);
    assert!(without.is_measured(Duration::ZERO) && without.is_measured(without.end()));
}

#[test]
fn a_stage_without_length_jumps() {
    let schedule = schedule(&[(0, 4), (100, 4), (0, 2), (100, 2)]);
    assert_eq!(schedule.active(1), [ms(0..200)]);
    assert_eq!(schedule.active(2), [ms(0..100)]);
    assert_eq!(schedule.active_at(Duration::ZERO), 4);
    assert_eq!(schedule.active_at(Duration::from_millis(100)), 2);
}

#[test]
fn who_leaves_and_joins_at_once_stays() {
    let schedule = schedule(&[(100, 4), (100, 2), (100, 4)]);
    assert_eq!(schedule.active(2), [ms(50..300)]);
    assert_eq!(schedule.active(3), [ms(75..150), ms(250..300)]);
}

#[test]
fn only_open_models_have_a_pace() {
    let pace = |publish, user| {
        let scenario = Scenario { publishers: Some(5), ..scenario(10, publish, &[]) };
        Pace::new(&scenario, user, ms(0..1_000))
    };
    assert!(pace(Publish::Nothing, 0).is_none());
    assert!(pace(Publish::Closed { think_time: Duration::ZERO }, 0).is_none());
    assert!(pace(Publish::Window { publishes: 1 }, 0).is_none());
    assert!(pace(Publish::Paced { rate_per_user: 1.0 }, 4).is_some());
    assert!(pace(Publish::Paced { rate_per_user: 1.0 }, 5).is_none());
    assert!(pace(Publish::Open { rate: 1.0 }, 5).is_some());
}

#[test]
fn the_turns_of_any_first_users_fill_the_period_evenly() {
    let scenario = scenario(100, Publish::Paced { rate_per_user: 1.0 }, &[]);
    for users in [5, 21, 34, 100] {
        let mut turns: Vec<_> = (0..users)
            .map(|user| Pace::new(&scenario, user, ms(2_000..4_000)).unwrap().next().unwrap())
            .collect();
        turns.sort_unstable();
        // Never further apart than three even steps, and the tenth that is left to chance.
        let widest = turns.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(widest <= Duration::from_secs(3) / users + Duration::from_millis(100), "{turns:?}");
    }
}

#[test]
fn a_user_keeps_its_period() {
    let scenario = scenario(10, Publish::Paced { rate_per_user: 1.0 }, &[]);
    for user in 0..10 {
        let moments: Vec<_> = Pace::new(&scenario, user, ms(500..10_500)).unwrap().collect();
        assert!((10..=11).contains(&moments.len()), "{moments:?}");
        let first = moments[0].as_millis();
        for (due, n) in moments.iter().zip(0..) {
            let due = due.as_millis();
            assert!((first + n * 1_000).abs_diff(due) <= 101, "{user} {moments:?}");
        }
    }
}

#[test]
fn users_and_seeds_have_a_randomness_of_their_own() {
    let of = |seed, user| {
        let publish = Publish::Open { rate: 100.0 };
        let scenario = Scenario { seed, ..scenario(10, publish, &[]) };
        Pace::new(&scenario, user, ms(0..1_000)).unwrap().collect::<Vec<_>>()
    };
    assert_eq!(of(1, 2), of(1, 2));
    assert_ne!(of(1, 2), of(1, 3));
    assert_ne!(of(1, 2), of(2, 2));
}

#[test]
fn after_a_week_a_user_is_still_in_time() {
    let week = 7 * 24 * 3_600 * 1_000;
    let scenario = scenario(3, Publish::Paced { rate_per_user: 0.3 }, &[]);
    let last = Pace::new(&scenario, 0, ms(0..week)).unwrap().enumerate().last().unwrap();
    let exact = last.0 as f64 / 0.3;
    let late = last.1.as_secs_f64() - exact;
    assert!((-1e-6..=1.0 / 3.0 + 1e-6).contains(&late), "{late}");
}

proptest! {
    #[test]
    fn active_ranges_agree_with_the_number(
        stages in prop::collection::vec((0_u64..50, 0_u32..7), 1..8),
        odd in 0_u64..1_000,
    ) {
        let schedule = schedule(&stages);
        let ranges: Vec<_> = (0..8).map(|user| schedule.active(user)).collect();
        let end = schedule.end();
        let mut moments: Vec<_> = ranges.iter().flatten().flat_map(|it| [it.start, it.end]).collect();
        moments.extend((0..=end.as_millis() as u64 + 1).map(Duration::from_millis));
        for at in moments.clone() {
            moments.extend(at.checked_sub(Duration::from_nanos(1)));
            moments.push(at + Duration::from_nanos(odd));
        }
        for at in moments {
            let active = schedule.active_at(at);
            for (user, ranges) in ranges.iter().enumerate() {
                let is_active = ranges.iter().any(|range| range.contains(&at));
                prop_assert_eq!(is_active, (user as u32) < active, "user {} at {:?}", user, at);
            }
        }
    }

    #[test]
    fn phases_are_dense_and_their_ranges_are_in_order(
        stages in prop::collection::vec((0_u64..50, 0_u32..7), 1..8),
    ) {
        let schedule = schedule(&stages);
        let mut end = Duration::ZERO;
        for (at, (phase, span)) in schedule.phases.iter().enumerate() {
            prop_assert_eq!(span.start, end);
            prop_assert!(span.start < span.end);
            prop_assert!(at == 0 || schedule.phases[at - 1].0 != *phase);
            end = span.end;
        }
        prop_assert_eq!(end, schedule.end());
        for user in 0..8 {
            let active = schedule.active(user);
            prop_assert!(active.iter().all(|it| it.start < it.end && it.end <= end));
            prop_assert!(active.windows(2).all(|two| two[0].end < two[1].start));
        }
    }

    #[test]
    fn a_pace_keeps_its_rate_and_its_range(
        rate in 0.5_f64..50.0,
        begins in 0_u64..10_000,
        user in 0_u32..20,
        seed: u64,
        is_open: bool,
    ) {
        let publish = if is_open {
            Publish::Open { rate }
        } else {
            Publish::Paced { rate_per_user: rate }
        };
        let scenario = Scenario { seed, ..scenario(20, publish, &[]) };
        let active = ms(begins..begins + 2_000_000);
        let dues: Vec<_> = Pace::new(&scenario, user, active.clone()).unwrap().collect();
        prop_assert!(dues.iter().all(|due| active.contains(due)));
        prop_assert!(dues.is_sorted());
        let expected = rate * 2_000.0;
        // Arrivals vary by the root of their number; six of them are beyond chance.
        let tolerance = if is_open { 6.0 * expected.sqrt() } else { 1.5 };
        prop_assert!((dues.len() as f64 - expected).abs() <= tolerance, "{} of {expected}", dues.len());
    }
}
