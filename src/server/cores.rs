//! Which thread gets which core: a pure plan, and the two calls that apply it.
//!
//! A hub shard gets a core for itself; edge, log, auth and the rest share what is left. Where that
//! cannot be, on one core above all, the plan says so and the server runs all the same.

use std::{fmt, io, str::FromStr};

use rustix::thread::CpuSet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Whether threads are bound to cores: `auto`, `off`, or the list of the hub's cores.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum PinCores {
    /// The first allowed cores are the hub's, the last is everybody else's.
    #[default]
    Auto,
    /// The kernel places the threads.
    Off,
    /// These cores are the hub's, the other allowed ones everybody else's.
    List(Vec<usize>),
}

/// Where the threads go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// For each hub shard, its core. None: not pinned.
    pub shards: Vec<Option<usize>>,
    /// The cores of all other threads. None: not pinned.
    pub rest: Option<Vec<usize>>,
    /// What an operator should know about it.
    pub warning: Option<Warning>,
}

/// A plan that cannot keep the hub's cores free of other work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warning {
    /// Only one core is allowed.
    OneCore,
    /// The list takes all allowed cores.
    NoneLeft,
    /// More shards than cores for them.
    ShardsShare,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneCore => "only one core is allowed: the hub shares it with all other threads",
            Self::NoneLeft => "pin_cores takes every allowed core: the hub shares its cores",
            Self::ShardsShare => {
                "there are more hub shards than cores for them: shards share cores"
            }
        })
    }
}

/// Why there is no plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PlanError {
    /// The list names a core that this process may not use.
    #[error("pin_cores names core {0}, which this process may not use")]
    NotAllowed(usize),
    /// The list names a core twice.
    #[error("pin_cores names core {0} twice")]
    Twice(usize),
    /// The list is empty.
    #[error("pin_cores names no core")]
    Empty,
}

/// Plans for these allowed cores, ascending.
///
/// # Errors
/// When the list of cores cannot be followed.
pub fn plan(allowed: &[usize], pin: &PinCores, shards: Shards) -> Result<Plan, PlanError> {
    let hub_cores = match pin {
        // A machine that does not tell its cores is not pinned either.
        PinCores::Auto | PinCores::Off => {
            &allowed[..allowed.len().saturating_sub(1).max(1).min(allowed.len())]
        }
        PinCores::List(cores) => {
            check_list(allowed, cores)?;
            cores
        }
    };
    let count = match shards {
        Shards::Auto => hub_cores.len().max(1),
        Shards::Count(count) => count.max(1),
    };
    if *pin == PinCores::Off || hub_cores.is_empty() {
        return Ok(Plan { shards: vec![None; count], rest: None, warning: None });
    }

    // With fewer shards than cores for them, the spare cores go to the others.
    let hub_cores = &hub_cores[..count.min(hub_cores.len())];
    let others: Vec<usize> =
        allowed.iter().copied().filter(|core| !hub_cores.contains(core)).collect();
    let warning = if allowed.len() == 1 {
        Some(Warning::OneCore)
    } else if others.is_empty() {
        Some(Warning::NoneLeft)
    } else if count > hub_cores.len() {
        Some(Warning::ShardsShare)
    } else {
        None
    };
    Ok(Plan {
        shards: hub_cores.iter().copied().cycle().take(count).map(Some).collect(),
        rest: Some(if others.is_empty() { allowed.to_vec() } else { others }),
        warning,
    })
}

fn check_list(allowed: &[usize], cores: &[usize]) -> Result<(), PlanError> {
    if cores.is_empty() {
        return Err(PlanError::Empty);
    }
    for (index, core) in cores.iter().enumerate() {
        if !allowed.contains(core) {
            return Err(PlanError::NotAllowed(*core));
        }
        if cores[..index].contains(core) {
            return Err(PlanError::Twice(*core));
        }
    }
    Ok(())
}

/// The cores that this process may use, ascending. Empty where the system does not tell.
#[must_use]
pub fn allowed() -> Vec<usize> {
    let mut cores: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    cores.sort_unstable();
    cores
}

/// Binds the calling thread, and threads that it starts from now on, to one core. Answers whether
/// the system agreed.
#[must_use]
pub fn pin_to_core(core: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

/// Binds the calling thread, and threads that it starts from now on, to a set of cores.
///
/// # Errors
/// When the system does not agree.
pub fn pin_to_set(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores.iter().filter(|core| **core < CpuSet::MAX_CPU) {
        set.set(*core);
    }
    rustix::thread::sched_setaffinity(None, &set)?;
    Ok(())
}

/// The text of a flag or a setting is none of the forms of [`PinCores`] or [`Shards`].
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FormError {
    /// Of `pin_cores`.
    #[error("expected `auto`, `off` or cores such as `0,2-3`, found `{0}`")]
    PinCores(String),
    /// Of `shards`.
    #[error("expected `auto` or a number of 1 or more, found `{0}`")]
    Shards(String),
}

/// Cores of one list, so that a typing error does not fill the memory.
const LISTED_CORES_MAX: usize = CpuSet::MAX_CPU;

impl FromStr for PinCores {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        let cores = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first <= last && last < LISTED_CORES_MAX).then_some(first..=last)
        };
        match text.trim() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            list => list
                .split(',')
                .map(cores)
                .collect::<Option<Vec<_>>>()
                .map(|ranges| Self::List(ranges.into_iter().flatten().collect()))
                .ok_or_else(|| FormError::PinCores(text.to_owned())),
        }
    }
}

impl fmt::Display for PinCores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::List(cores) => {
                let cores: Vec<String> = cores.iter().map(ToString::to_string).collect();
                f.write_str(&cores.join(","))
            }
        }
    }
}

impl FromStr for Shards {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        match (text.trim(), text.trim().parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(count @ 1..)) => Ok(Self::Count(count)),
            _ => Err(FormError::Shards(text.to_owned())),
        }
    }
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(count) => count.fmt(f),
        }
    }
}

/// In a file, `"0,1"`, `[0, 1]` and, for a single core, `0` are the same.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Number(usize),
    List(Vec<usize>),
}

impl<'de> Deserialize<'de> for PinCores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Written::deserialize(deserializer) {
            Ok(Written::Text(text)) => text.parse().map_err(de::Error::custom),
            Ok(Written::Number(core)) => Ok(Self::List(vec![core])),
            Ok(Written::List(cores)) => Ok(Self::List(cores)),
            Err(_) => Err(de::Error::custom("expected `auto`, `off` or cores such as `0,2-3`")),
        }
    }
}

impl Serialize for PinCores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Shards {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Written::deserialize(deserializer) {
            Ok(Written::Text(text)) => text,
            Ok(Written::Number(count)) => count.to_string(),
            Ok(Written::List(_)) | Err(_) => {
                return Err(de::Error::custom("expected `auto` or a number of 1 or more"));
            }
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Shards {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(cores: &[usize]) -> PinCores {
        PinCores::List(cores.to_vec())
    }

    #[test]
    fn on_two_cores_the_hub_has_the_first_and_the_rest_the_second() {
        let plan = plan(&[0, 1], &PinCores::Auto, Shards::Auto).unwrap();
        assert_eq!(plan, Plan { shards: vec![Some(0)], rest: Some(vec![1]), warning: None });
    }

    #[test]
    fn on_many_cores_all_but_the_last_are_the_hubs() {
        let plan = plan(&[2, 3, 6, 7], &PinCores::Auto, Shards::Auto).unwrap();
        assert_eq!(plan.shards, [Some(2), Some(3), Some(6)]);
        assert_eq!(plan.rest, Some(vec![7]));
    }

    #[test]
    fn fewer_shards_leave_more_cores_to_the_rest() {
        let plan = plan(&[0, 1, 2, 3], &PinCores::Auto, Shards::Count(1)).unwrap();
        assert_eq!(plan.shards, [Some(0)]);
        assert_eq!(plan.rest, Some(vec![1, 2, 3]));
    }

    #[test]
    fn more_shards_than_cores_share_them_with_a_warning() {
        let plan = plan(&[0, 1, 2], &PinCores::Auto, Shards::Count(3)).unwrap();
        assert_eq!(plan.shards, [Some(0), Some(1), Some(0)]);
        assert_eq!(plan.rest, Some(vec![2]));
        assert_eq!(plan.warning, Some(Warning::ShardsShare));
    }

    #[test]
    fn one_core_is_a_warning_not_a_failure() {
        let plan = plan(&[5], &PinCores::Auto, Shards::Auto).unwrap();
        assert_eq!(plan.shards, [Some(5)]);
        assert_eq!(plan.rest, Some(vec![5]));
        assert_eq!(plan.warning, Some(Warning::OneCore));
    }

    #[test]
    fn off_pins_nothing_and_unknown_cores_neither() {
        let off = plan(&[0, 1, 2], &PinCores::Off, Shards::Auto).unwrap();
        assert_eq!(off, Plan { shards: vec![None, None], rest: None, warning: None });
        let unknown = plan(&[], &PinCores::Auto, Shards::Auto).unwrap();
        assert_eq!(unknown, Plan { shards: vec![None], rest: None, warning: None });
    }

    #[test]
    fn a_list_is_followed_or_refused() {
        let followed = plan(&[0, 1, 2], &list(&[2, 0]), Shards::Auto).unwrap();
        assert_eq!(followed.shards, [Some(2), Some(0)]);
        assert_eq!(followed.rest, Some(vec![1]));
        let all = plan(&[0, 1], &list(&[0, 1]), Shards::Auto).unwrap();
        assert_eq!((all.rest, all.warning), (Some(vec![0, 1]), Some(Warning::NoneLeft)));
        assert_eq!(plan(&[0, 1], &list(&[3]), Shards::Auto), Err(PlanError::NotAllowed(3)));
        assert_eq!(plan(&[0, 1], &list(&[0, 0]), Shards::Auto), Err(PlanError::Twice(0)));
        assert_eq!(plan(&[0, 1], &list(&[]), Shards::Auto), Err(PlanError::Empty));
    }

    #[test]
    fn flags_are_read_and_written_back() {
        for (text, read) in [
            ("auto", Some(PinCores::Auto)),
            ("off", Some(PinCores::Off)),
            ("0", Some(list(&[0]))),
            ("0,2-4", Some(list(&[0, 2, 3, 4]))),
            ("", None),
            ("on", None),
            ("4-2", None),
            ("0-99999999999", None),
        ] {
            assert_eq!(text.parse::<PinCores>().ok(), read, "{text}");
        }
        assert_eq!("0,2-3".parse::<PinCores>().unwrap().to_string(), "0,2,3");
        assert_eq!("2".parse(), Ok(Shards::Count(2)));
        assert!("0".parse::<Shards>().is_err());
    }

    #[test]
    fn a_thread_runs_where_it_is_pinned() {
        let cores = allowed();
        let last = *cores.last().unwrap();
        let pinned = std::thread::spawn(move || {
            assert!(pin_to_core(last));
            let alone = allowed();
            pin_to_set(&cores).unwrap();
            (alone, allowed() == cores)
        });
        assert_eq!(pinned.join().unwrap(), (vec![last], true));
    }

    proptest! {
        #[test]
        fn every_plan_uses_allowed_cores_only(count in 1_usize..9, shards in 0_usize..12) {
            let allowed: Vec<usize> = (0..count).map(|core| core * 2).collect();
            let shards = if shards == 0 { Shards::Auto } else { Shards::Count(shards) };
            let plan = plan(&allowed, &PinCores::Auto, shards).unwrap();
            let rest = plan.rest.unwrap();
            prop_assert!(!plan.shards.is_empty() && !rest.is_empty());
            prop_assert!(plan.shards.iter().flatten().chain(&rest).all(|core| allowed.contains(core)));
            let shared = plan.shards.iter().flatten().any(|core| rest.contains(core));
            prop_assert_eq!(shared, count == 1);
        }
    }
}
