//! Which thread gets which core: a pure plan, and the two calls that apply it.
//!
//! Each thread of the hub, a shard, gets a core for itself; edge, log, auth and the rest share what
//! is left. Where that cannot be, on one core above all, the plan says so and the server runs all the
//! same.

use std::{fmt, io, str::FromStr};

use rustix::thread::CpuSet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::limits::SHARDS_MAX;

/// Whether threads are bound to cores: `auto`, `off`, or the list of the hub's cores.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum PinCores {
    /// The first allowed cores are the hub's, one for each shard; the others everybody else's.
    #[default]
    Auto,
    /// The kernel places the threads.
    Off,
    /// These cores are the hub's, the other allowed ones everybody else's.
    List(Vec<usize>),
}

/// How many threads the hub has: `auto` or a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Shards {
    /// One for each core that is listed for the hub; where none is, for each allowed one but the
    /// last.
    #[default]
    Auto,
    /// So many: from 1 to [`SHARDS_MAX`].
    Number(u16),
}

/// Where the threads go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The cores of each shard's thread. None: not pinned.
    pub shards: Vec<Option<Vec<usize>>>,
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
    /// The hub takes all allowed cores.
    NoneLeft,
    /// There are more shards than cores for them.
    TooFew,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneCore => "only one core is allowed: the hub shares it with all other threads",
            Self::NoneLeft => "the hub takes every allowed core: it shares them with all threads",
            Self::TooFew => "there are more shards than cores for them: they share",
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
    if let PinCores::List(cores) = pin {
        check_list(allowed, cores)?;
    }
    let count = usize::from(match (shards, pin) {
        (Shards::Number(count), _) => count,
        (Shards::Auto, PinCores::List(cores)) => bounded(cores.len()),
        (Shards::Auto, PinCores::Auto | PinCores::Off) => bounded(allowed.len().saturating_sub(1)),
    });
    let hub = match (pin, allowed) {
        // A machine that does not tell its cores is not pinned either.
        (PinCores::Off, _) | (PinCores::Auto, []) => {
            return Ok(Plan { shards: vec![None; count], rest: None, warning: None });
        }
        (PinCores::Auto, _) => &allowed[..count.min(allowed.len())],
        (PinCores::List(cores), _) => cores,
    };
    let others: Vec<usize> = allowed.iter().copied().filter(|core| !hub.contains(core)).collect();
    let warning = match (allowed.len(), others.is_empty()) {
        (1, _) => Some(Warning::OneCore),
        (_, true) => Some(Warning::NoneLeft),
        (_, false) if count > hub.len() => Some(Warning::TooFew),
        (_, false) => None,
    };
    let rest = if others.is_empty() { allowed.to_vec() } else { others };
    // Listed cores beyond one for each shard are dealt out too.
    let cores_of =
        |shard: usize| hub.iter().copied().skip(shard % hub.len()).step_by(count).collect();
    let shards = (0..count).map(|shard| Some(cores_of(shard))).collect();
    Ok(Plan { shards, rest: Some(rest), warning })
}

/// As many shards, within what is possible.
fn bounded(shards: usize) -> u16 {
    u16::try_from(shards).unwrap_or(SHARDS_MAX).clamp(1, SHARDS_MAX)
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

/// The text of a flag or a setting is none of the forms of [`Shards`].
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("expected `auto` or a number from 1 to {SHARDS_MAX}, found `{0}`")]
pub struct ShardsError(String);

impl FromStr for Shards {
    type Err = ShardsError;

    fn from_str(text: &str) -> Result<Self, ShardsError> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            number => number
                .parse()
                .ok()
                .filter(|number| (1..=SHARDS_MAX).contains(number))
                .map(Self::Number)
                .ok_or_else(|| ShardsError(text.to_owned())),
        }
    }
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Shards {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Written::deserialize(deserializer) {
            Ok(Written::Text(text)) => text,
            Ok(Written::Number(number)) => number.to_string(),
            Ok(Written::List(_)) => "a list".to_owned(),
            Err(_) => "something else".to_owned(),
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Shards {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Number(number) => serializer.serialize_u16(*number),
        }
    }
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

    fn planned(allowed: &[usize], pin: &PinCores, shards: Shards) -> Plan {
        plan(allowed, pin, shards).unwrap()
    }

    /// The cores of each shard, which are pinned.
    fn cores(plan: &Plan) -> Vec<Vec<usize>> {
        plan.shards.iter().map(|cores| cores.clone().unwrap()).collect()
    }

    #[test]
    fn each_shard_has_one_of_the_first_cores_and_the_rest_the_others() {
        let one = planned(&[2, 3], &PinCores::Auto, Shards::Auto);
        assert_eq!(one, Plan { shards: vec![Some(vec![2])], rest: Some(vec![3]), warning: None });
        let auto = planned(&[2, 3, 6], &PinCores::Auto, Shards::Auto);
        assert_eq!((cores(&auto), auto.rest), (vec![vec![2], vec![3]], Some(vec![6])));
        let fewer = planned(&[2, 3, 6], &PinCores::Auto, Shards::Number(1));
        assert_eq!((cores(&fewer), fewer.rest), (vec![vec![2]], Some(vec![3, 6])));
        let many: Vec<usize> = (0..200).collect();
        let many = planned(&many, &PinCores::Auto, Shards::Auto);
        assert_eq!(many.shards.len(), usize::from(SHARDS_MAX));
    }

    #[test]
    fn one_core_is_a_warning_not_a_failure() {
        let planned = planned(&[5], &PinCores::Auto, Shards::Auto);
        assert_eq!((cores(&planned), planned.rest), (vec![vec![5]], Some(vec![5])));
        assert_eq!(planned.warning, Some(Warning::OneCore));
    }

    #[test]
    fn more_shards_than_cores_share_and_say_so() {
        let all = planned(&[0, 1], &PinCores::Auto, Shards::Number(3));
        assert_eq!(cores(&all), [[0], [1], [0]]);
        assert_eq!((all.rest, all.warning), (Some(vec![0, 1]), Some(Warning::NoneLeft)));
        let listed = planned(&[0, 1], &list(&[1]), Shards::Number(2));
        assert_eq!(cores(&listed), [[1], [1]]);
        assert_eq!((listed.rest, listed.warning), (Some(vec![0]), Some(Warning::TooFew)));
        let one = planned(&[4], &PinCores::Auto, Shards::Number(2));
        assert_eq!((cores(&one), one.warning), (vec![vec![4], vec![4]], Some(Warning::OneCore)));
    }

    #[test]
    fn off_pins_nothing_and_unknown_cores_neither() {
        let nothing = |count| Plan { shards: vec![None; count], rest: None, warning: None };
        assert_eq!(planned(&[0, 1, 2], &PinCores::Off, Shards::Auto), nothing(2));
        assert_eq!(planned(&[0, 1, 2], &PinCores::Off, Shards::Number(5)), nothing(5));
        assert_eq!(planned(&[], &PinCores::Auto, Shards::Auto), nothing(1));
    }

    #[test]
    fn a_list_is_followed_or_refused() {
        let followed = planned(&[0, 1, 2], &list(&[2, 0]), Shards::Auto);
        assert_eq!((cores(&followed), followed.rest), (vec![vec![2], vec![0]], Some(vec![1])));
        let roomy = planned(&[0, 1, 2, 3], &list(&[3, 2, 0]), Shards::Number(2));
        assert_eq!((cores(&roomy), roomy.rest), (vec![vec![3, 0], vec![2]], Some(vec![1])));
        let all = planned(&[0, 1], &list(&[0, 1]), Shards::Auto);
        assert_eq!((all.rest, all.warning), (Some(vec![0, 1]), Some(Warning::NoneLeft)));
        let refused = |cores: &[usize]| plan(&[0, 1], &list(cores), Shards::Auto).unwrap_err();
        assert_eq!(refused(&[3]), PlanError::NotAllowed(3));
        assert_eq!(refused(&[0, 0]), PlanError::Twice(0));
        assert_eq!(refused(&[]), PlanError::Empty);
    }

    #[test]
    fn numbers_of_shards_are_read_and_written_back() {
        for (text, read) in [
            ("auto", Some(Shards::Auto)),
            ("1", Some(Shards::Number(1))),
            ("64", Some(Shards::Number(SHARDS_MAX))),
            ("0", None),
            ("65", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(text.parse::<Shards>().ok(), read, "{text}");
            assert!(read.is_none_or(|read| read.to_string() == text));
        }
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
