//! Which thread gets which core: a pure plan, and the two calls that apply it.
//!
//! The hub's thread gets a core for itself; edge, log, auth and the rest share what is left. Where
//! that cannot be, on one core above all, the plan says so and the server runs all the same.

use std::{fmt, io, str::FromStr};

use rustix::thread::CpuSet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Whether threads are bound to cores: `auto`, `off`, or the list of the hub's cores.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum PinCores {
    /// The first allowed core is the hub's, the others are everybody else's.
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
    /// The cores of the hub's thread. None: not pinned.
    pub hub: Option<Vec<usize>>,
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
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneCore => "only one core is allowed: the hub shares it with all other threads",
            Self::NoneLeft => "pin_cores takes every allowed core: the hub shares its cores",
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
pub fn plan(allowed: &[usize], pin: &PinCores) -> Result<Plan, PlanError> {
    let hub = match (pin, allowed) {
        // A machine that does not tell its cores is not pinned either.
        (PinCores::Off, _) | (PinCores::Auto, []) => {
            return Ok(Plan { hub: None, rest: None, warning: None });
        }
        (PinCores::Auto, [first, ..]) => vec![*first],
        (PinCores::List(cores), _) => {
            check_list(allowed, cores)?;
            cores.clone()
        }
    };
    let others: Vec<usize> = allowed.iter().copied().filter(|core| !hub.contains(core)).collect();
    let warning = match (allowed.len(), others.is_empty()) {
        (1, _) => Some(Warning::OneCore),
        (_, true) => Some(Warning::NoneLeft),
        (_, false) => None,
    };
    let rest = if others.is_empty() { allowed.to_vec() } else { others };
    Ok(Plan { hub: Some(hub), rest: Some(rest), warning })
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

/// Binds the calling thread, and threads that it starts from now on, to these cores.
///
/// # Errors
/// When the system does not agree.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    if let [core] = cores {
        return if core_affinity::set_for_current(core_affinity::CoreId { id: *core }) {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        };
    }
    let mut set = CpuSet::new();
    for core in cores.iter().filter(|core| **core < CpuSet::MAX_CPU) {
        set.set(*core);
    }
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// The text of a flag or a setting is none of the forms of [`PinCores`].
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("expected `auto`, `off` or cores such as `0,2-3`, found `{0}`")]
pub struct FormError(String);

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
                .ok_or_else(|| FormError(text.to_owned())),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn list(cores: &[usize]) -> PinCores {
        PinCores::List(cores.to_vec())
    }

    #[test]
    fn the_hub_has_the_first_core_and_the_rest_the_others() {
        let planned = plan(&[2, 3, 6], &PinCores::Auto).unwrap();
        assert_eq!(planned, Plan { hub: Some(vec![2]), rest: Some(vec![3, 6]), warning: None });
    }

    #[test]
    fn one_core_is_a_warning_not_a_failure() {
        let planned = plan(&[5], &PinCores::Auto).unwrap();
        assert_eq!((planned.hub, planned.rest), (Some(vec![5]), Some(vec![5])));
        assert_eq!(planned.warning, Some(Warning::OneCore));
    }

    #[test]
    fn off_pins_nothing_and_unknown_cores_neither() {
        let nothing = Plan { hub: None, rest: None, warning: None };
        assert_eq!(plan(&[0, 1, 2], &PinCores::Off), Ok(nothing.clone()));
        assert_eq!(plan(&[], &PinCores::Auto), Ok(nothing));
    }

    #[test]
    fn a_list_is_followed_or_refused() {
        let followed = plan(&[0, 1, 2], &list(&[2, 0])).unwrap();
        assert_eq!((followed.hub, followed.rest), (Some(vec![2, 0]), Some(vec![1])));
        let all = plan(&[0, 1], &list(&[0, 1])).unwrap();
        assert_eq!((all.rest, all.warning), (Some(vec![0, 1]), Some(Warning::NoneLeft)));
        assert_eq!(plan(&[0, 1], &list(&[3])), Err(PlanError::NotAllowed(3)));
        assert_eq!(plan(&[0, 1], &list(&[0, 0])), Err(PlanError::Twice(0)));
        assert_eq!(plan(&[0, 1], &list(&[])), Err(PlanError::Empty));
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
    }

    #[test]
    fn a_thread_runs_where_it_is_pinned() {
        let cores = allowed();
        let last = *cores.last().unwrap();
        let pinned = std::thread::spawn(move || {
            pin(&[last]).unwrap();
            let alone = allowed();
            pin(&cores).unwrap();
            (alone, allowed() == cores)
        });
        assert_eq!(pinned.join().unwrap(), (vec![last], true));
    }
}
