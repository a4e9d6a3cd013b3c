//! What a password's hash may cost on this machine: a search for the highest cost that keeps to a
//! time. The search is pure, measuring is its argument.
//!
//! Memory is what an attacker's hardware lacks, so the search raises it first, up to what the
//! operator allows, and the passes after that. Below OWASP's minimum, our default, it proposes
//! nothing: where even that takes longer than wished, it says so.

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use thiserror::Error;

use super::password::{self, Cost, HashError, Memory, Password};
use crate::limits;

/// What is wished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Goal {
    /// What one hash may take, alone on its thread.
    pub target: Duration,
    /// Memory that one hash may fill.
    pub memory_max: ByteSize,
}

/// A cost, and what it takes here.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Step {
    /// The cost.
    pub cost: Cost,
    /// What one hash took.
    pub took: Duration,
}

impl Step {
    /// Hashes that one worker makes in a second.
    #[must_use]
    pub fn hashes_per_second(&self) -> f64 {
        1.0 / self.took.as_secs_f64().max(1e-9)
    }
}

/// What the search found.
#[derive(Clone, PartialEq, Debug)]
pub struct Proposal {
    /// Everything that was measured, in its order.
    pub steps: Vec<Step>,
    /// The one to take.
    pub chosen: Step,
}

/// Why there is no proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum GoalError {
    /// Less memory is allowed than any hash shall have.
    #[error("a hash fills at least {}", Cost::default().memory)]
    MemoryTooLow,
    /// More than we spend on any hash.
    #[error("a hash fills at most {} MiB", limits::HASH_MEMORY_KIB_MAX / 1024)]
    MemoryTooHigh,
    /// A cost could not be measured.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// The highest cost that takes no longer than the target.
///
/// # Errors
/// When the memory allowed is out of range, or measuring fails.
pub fn search(
    goal: Goal,
    mut measure: impl FnMut(Cost) -> Result<Duration, HashError>,
) -> Result<Proposal, GoalError> {
    let least = Cost::default();
    let memory_max_mib = goal.memory_max.as_u64() >> 20;
    let least_mib = least.memory.as_u64() >> 20;
    if memory_max_mib < least_mib {
        return Err(GoalError::MemoryTooLow);
    }
    if memory_max_mib > u64::from(limits::HASH_MEMORY_KIB_MAX / 1024) {
        return Err(GoalError::MemoryTooHigh);
    }
    let mut steps = Vec::new();
    let mut fits = |memory_mib: u64, passes: u32| -> Result<bool, HashError> {
        let cost = Cost { memory: ByteSize::mib(memory_mib), passes, ..least };
        let took = measure(cost)?;
        steps.push(Step { cost, took });
        Ok(took <= goal.target)
    };

    let (mut memory_mib, mut passes) = (least_mib, least.passes);
    if fits(memory_mib, passes)? {
        memory_mib = most(least_mib, memory_max_mib, |mib| fits(mib, passes))?;
        if memory_mib == memory_max_mib {
            let max = u64::from(limits::HASH_PASSES_MAX);
            let most = most(u64::from(passes), max, |passes| fits(memory_mib, passes_u32(passes)))?;
            passes = passes_u32(most);
        }
    }
    let is_chosen =
        |step: &&Step| step.cost.memory == ByteSize::mib(memory_mib) && step.cost.passes == passes;
    let chosen = *steps.iter().find(is_chosen).expect("what is proposed was measured");
    Ok(Proposal { steps, chosen })
}

fn passes_u32(passes: u64) -> u32 {
    u32::try_from(passes).expect("passes are within their bound")
}

/// The largest number that fits, of those from one that does: by doubling, then by halving what is
/// between. Ends early where less than a sixteenth is to be gained.
fn most<E>(
    mut fitting: u64,
    max: u64,
    mut fits: impl FnMut(u64) -> Result<bool, E>,
) -> Result<u64, E> {
    let mut too_many = max + 1;
    while fitting < max && too_many > max {
        let next = (fitting * 2).min(max);
        if fits(next)? {
            fitting = next;
        } else {
            too_many = next;
        }
    }
    while too_many - fitting > (fitting / 16).max(1) && too_many <= max {
        let middle = fitting.midpoint(too_many);
        if fits(middle)? {
            fitting = middle;
        } else {
            too_many = middle;
        }
    }
    Ok(fitting)
}

/// Hashes of one cost that are measured, after one that faults the memory in.
const ROUNDS: usize = 5;

/// What one hash of this cost takes here, in memory that was used before: the median of some.
///
/// # Errors
/// When the cost is out of range.
pub fn measure(cost: Cost, memory: &mut Memory) -> Result<Duration, HashError> {
    let password =
        Password::new("a password to measure".to_owned()).expect("its length is allowed");
    let mut once = || {
        let begun = Instant::now();
        password::hash(&password, &[7; password::SALT_BYTES], cost, memory)?;
        Ok(begun.elapsed())
    };
    once()?;
    let mut times = [Duration::ZERO; ROUNDS];
    for time in &mut times {
        *time = once()?;
    }
    times.sort_unstable();
    Ok(times[ROUNDS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that takes so long for a MiB and a pass.
    fn machine(us: u64) -> impl FnMut(Cost) -> Result<Duration, HashError> {
        move |cost| {
            cost.check()?;
            Ok(Duration::from_micros(us * (cost.memory.as_u64() >> 20) * u64::from(cost.passes)))
        }
    }

    fn goal(target_ms: u64, memory_max_mib: u64) -> Goal {
        let target = Duration::from_millis(target_ms);
        Goal { target, memory_max: ByteSize::mib(memory_max_mib) }
    }

    /// The MiB and passes that are proposed, and the number of steps.
    fn proposed(goal: Goal, us: u64) -> (u64, u32, usize) {
        let Proposal { steps, chosen } = search(goal, machine(us)).unwrap();
        (chosen.cost.memory.as_u64() >> 20, chosen.cost.passes, steps.len())
    }

    #[test]
    fn a_machine_that_is_too_slow_gets_the_least_cost_of_all() {
        assert_eq!(proposed(goal(250, 256), 10_000), (19, 2, 1));
    }

    #[test]
    fn memory_is_raised_first() {
        // 250 ms for 125 MiB twice.
        let (memory_mib, passes, steps) = proposed(goal(250, 256), 1_000);
        assert!((118..=125).contains(&memory_mib), "{memory_mib}");
        assert_eq!(passes, 2);
        assert!(steps <= 10, "{steps}");
    }

    #[test]
    fn passes_are_raised_when_the_memory_is_used_up() {
        // 25.6 ms for 256 MiB once: nine times in 250 ms.
        assert_eq!(proposed(goal(250, 256), 100).0, 256);
        assert_eq!(proposed(goal(250, 256), 100).1, 9);
        assert_eq!(proposed(goal(250, 19), 1_000).0, 19);
        assert_eq!(proposed(goal(250, 19), 1_000).1, 13);
    }

    #[test]
    fn nothing_is_proposed_beyond_our_ceiling() {
        assert_eq!(proposed(goal(100_000, 256), 1).0, 256);
        assert_eq!(proposed(goal(100_000, 256), 1).1, limits::HASH_PASSES_MAX);
    }

    #[test]
    fn what_is_chosen_keeps_to_the_target_and_a_little_more_would_not() {
        for us in (20..4_000).step_by(37) {
            for target_ms in [100, 250, 700] {
                let goal = goal(target_ms, 200);
                let Proposal { steps, chosen } = search(goal, machine(us)).unwrap();
                assert!(steps.contains(&chosen));
                if chosen.cost == Cost::default() && chosen.took > goal.target {
                    continue;
                }
                assert!(chosen.took <= goal.target);
                let at_ceiling = chosen.cost.memory == goal.memory_max
                    && chosen.cost.passes == limits::HASH_PASSES_MAX;
                // A pass more, or a sixteenth of the memory and 2 MiB.
                let more = if chosen.cost.memory == goal.memory_max {
                    f64::from(chosen.cost.passes + 1) / f64::from(chosen.cost.passes)
                } else {
                    1.07 + 2.0 / (chosen.cost.memory.as_u64() >> 20) as f64
                };
                let next = chosen.took.mul_f64(more);
                assert!(at_ceiling || next > goal.target, "{us} us, {target_ms} ms: {chosen:?}");
            }
        }
    }

    #[test]
    fn memory_out_of_range_is_refused() {
        let refused = |memory_max_mib| search(goal(250, memory_max_mib), machine(1)).unwrap_err();
        assert_eq!(refused(18), GoalError::MemoryTooLow);
        assert_eq!(refused(257), GoalError::MemoryTooHigh);
    }

    #[test]
    fn a_measured_hash_takes_time() {
        let cost = Cost { memory: ByteSize::kib(64), passes: 1, lanes: 1 };
        assert!(measure(cost, &mut Memory::default()).unwrap() > Duration::ZERO);
    }
}
