//! The most users that a server carries within bounds: run after run, closing in on the number.
//!
//! The number of users doubles until a run breaks a bound, and then the gap between the most that
//! passed and the fewest that failed is halved until it is small. A run that fails is made once
//! more before it counts: a hiccup of the machine is no limit of the server. Without a scenario each
//! run has 5 s of ramp-up, 10 s of plateau and 2 s of ramp-down, unless flags say otherwise.

use std::{fmt::Write as _, time::Duration};

use anyhow::anyhow;
use serde_json::{Value, json};

use crate::{
    Failure, Verdict,
    outcome::{Judged, Outcome},
    run::{
        conductor::{self, Extras},
        figures::BUSY_PERCENT,
        site::{self, Site},
    },
    scenario::{self, Scenario, threshold::Threshold},
};

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    #[command(flatten)]
    scenario: scenario::Flags,
    #[command(flatten)]
    site: site::Flags,
    /// A bound that the users are searched for: `deliver.p99<200ms`, `lost==0`. Can be repeated.
    #[arg(long, value_name = "CONDITION", required = true)]
    slo: Vec<String>,
    /// The first number of users.
    #[arg(long, default_value_t = 250)]
    from: u32,
    /// The last number of users.
    #[arg(long, default_value_t = 10_000)]
    to: u32,
    /// How near the answer is to be, in percent of it.
    #[arg(long, default_value_t = 5)]
    within: u32,
}

/// Where the search stands. Pure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Search {
    /// The most users that passed.
    pub(crate) passed: u32,
    /// The fewest that failed.
    pub(crate) failed: Option<u32>,
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// In percent of the answer.
    pub(crate) within: u32,
}

impl Search {
    /// The number to try next. `None`: the answer is near enough.
    pub(crate) fn next(&self) -> Option<u32> {
        match self.failed {
            None if self.passed >= self.last => None,
            None if self.passed == 0 => Some(self.first),
            None => Some(self.passed.saturating_mul(2).min(self.last)),
            Some(failed) => {
                let gap = failed - self.passed;
                let is_near = u64::from(gap) * 100 <= u64::from(failed) * u64::from(self.within);
                (gap > 1 && !is_near).then(|| self.passed + gap / 2)
            }
        }
    }

    pub(crate) fn tell(&mut self, users: u32, has_passed: bool) {
        if has_passed {
            self.passed = users;
        } else {
            self.failed = Some(users);
        }
    }
}

/// One number of users, and what came of it.
struct Step {
    users: u32,
    broken: Vec<Judged>,
    outcome: Outcome,
}

pub(crate) async fn run(flags: Flags, is_json: bool) -> Result<Verdict, Failure> {
    let scenario = searched(&flags)?;
    let site = Site::new(&flags.site, &scenario)?;
    let (first, last) = (flags.from, flags.to);
    let mut search = Search { passed: 0, failed: None, first, last, within: flags.within };
    let mut steps: Vec<Step> = Vec::new();
    while let Some(users) = search.next() {
        let mut step = attempt(&scenario, &site, users).await?;
        if !step.broken.is_empty() {
            eprintln!("{}; once more", line(&step));
            step = attempt(&scenario, &site, users).await?;
        }
        eprintln!("{}", line(&step));
        search.tell(users, step.broken.is_empty());
        steps.push(step);
    }
    let gave_out = search.failed.and_then(|users| steps.iter().find(|it| it.users == users));
    let why = gave_out.map(gave_out_first);
    if is_json {
        println!("{:#}", as_json(&flags, &search, why.as_deref(), &steps));
    } else {
        print!("{}", as_text(&search, why.as_deref(), &steps));
    }
    Ok(if search.passed > 0 { Verdict::Holds } else { Verdict::Broken })
}

fn searched(flags: &Flags) -> Result<Scenario, Failure> {
    let wrong = |what: &str| Err(Failure::configuration(anyhow!("{what}")));
    if flags.from == 0 || flags.from > flags.to {
        return wrong("--from must be at least 1 and at most --to");
    }
    if !(1..=50).contains(&flags.within) {
        return wrong("--within must be between 1 and 50 percent");
    }
    let slo = |text: &String| Threshold::try_from(text.clone());
    let slo: Result<Vec<_>, _> = flags.slo.iter().map(slo).collect();
    let mut scenario = shortened(&flags.scenario).load()?;
    scenario.thresholds = slo.map_err(|error| Failure::configuration(anyhow!("--slo: {error}")))?;
    // What cannot be run with the most users is not begun with the fewest.
    with_users(&scenario, flags.to).check()?;
    Ok(scenario)
}

/// A search is many runs. Where no scenario says how long each is, it is short.
fn shortened(flags: &scenario::Flags) -> scenario::Flags {
    let mut flags = flags.clone();
    if flags.scenario.is_none() {
        let overrides = &mut flags.overrides;
        overrides.ramp_up.get_or_insert(Duration::from_secs(5));
        overrides.plateau.get_or_insert(Duration::from_secs(10));
        overrides.ramp_down.get_or_insert(Duration::from_secs(2));
        overrides.idle.get_or_insert(Duration::ZERO);
    }
    flags
}

fn with_users(scenario: &Scenario, users: u32) -> Scenario {
    let mut scenario = scenario.clone();
    scenario.set_users(users);
    scenario
}

async fn attempt(scenario: &Scenario, site: &Site, users: u32) -> Result<Step, Failure> {
    let scenario = with_users(scenario, users);
    let extras = Extras { is_quiet: true, ..Extras::default() };
    let outcome = conductor::execute(&scenario, site.clone(), extras).await?.outcome;
    let mut broken: Vec<_> = outcome.thresholds.iter().filter(|it| !it.holds).cloned().collect();
    if outcome.violations > 0 {
        #[expect(clippy::cast_precision_loss, reason = "violations are few")]
        let value = Some(outcome.violations as f64);
        broken.push(Judged { text: "violations==0".to_owned(), value, holds: false });
    }
    Ok(Step { users, broken, outcome })
}

/// What broke, and what was at its limit while it did.
fn gave_out_first(step: &Step) -> String {
    let mut text = String::new();
    for Judged { text: condition, value, .. } in &step.broken {
        let value = value.map_or("not measured".to_owned(), |it| format!("{it:.2}"));
        let _ = write!(text, "{condition} broke (it was {value}), ");
    }
    let figure = |name: &str| step.outcome.figures.get(name).copied().unwrap_or_default();
    let hub = figure("server.hub_percent");
    let server = figure("server.cpu_percent");
    let generator = figure("generator.cpu_percent");
    text.push_str(&match () {
        () if generator > BUSY_PERCENT && generator > hub => {
            format!("while the generator was at {generator:.0} % of its core: the server may carry more")
        }
        () if hub > BUSY_PERCENT => format!("while the hub's thread was at {hub:.0} % of its core"),
        () => format!(
            "while no core was full: hub {hub:.0} %, server {server:.0} %, generator {generator:.0} %"
        ),
    });
    text
}

fn line(step: &Step) -> String {
    let figure = |name: &str| step.outcome.figures.get(name).copied().unwrap_or_default();
    format!(
        "{:>6} users  {:>9.0} deliveries/s  deliver p50 {:.2} p99 {:.2} ms  hub {:.0} %  generator {:.0} %  {}",
        step.users,
        figure("deliveries_per_s"),
        figure("deliver.p50"),
        figure("deliver.p99"),
        figure("server.hub_percent"),
        figure("generator.cpu_percent"),
        if step.broken.is_empty() { "passed" } else { "FAILED" },
    )
}

fn as_text(search: &Search, why: Option<&str>, steps: &[Step]) -> String {
    let mut text = String::new();
    let most = steps.iter().find(|it| it.users == search.passed);
    let _ = match (most, search.failed) {
        (None, _) => writeln!(text, "capacity      fewer than {} users", search.first),
        (Some(most), None) => {
            writeln!(text, "capacity      at least {} users, the most that were tried", most.users)
        }
        (Some(most), Some(failed)) => {
            writeln!(text, "capacity      {} users; {failed} were too many", most.users)
        }
    };
    if let Some(most) = most {
        let [p90, p95, p99] = most.outcome.percentiles_ms;
        let _ = writeln!(text, "with          {}", line(most).trim_start());
        let _ = writeln!(text, "percentiles_ms=[{p90:.1},{p95:.1},{p99:.1}]");
    }
    if let Some(why) = why {
        let _ = writeln!(text, "gave out      {why}");
    }
    text
}

fn as_json(flags: &Flags, search: &Search, why: Option<&str>, steps: &[Step]) -> Value {
    let step = |step: &Step| {
        json!({
            "users": step.users,
            "passed": step.broken.is_empty(),
            "broken": step.broken,
            "figures": step.outcome.figures,
        })
    };
    json!({
        "slo": flags.slo,
        "users": search.passed,
        "too_many": search.failed,
        "gave_out_first": why,
        "steps": steps.iter().map(step).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server that carries so many users, and answers what was found and in how many
    /// steps.
    fn found(carries: u32, first: u32, last: u32) -> (u32, u32) {
        let mut search = Search { passed: 0, failed: None, first, last, within: 5 };
        let mut steps = 0;
        while let Some(users) = search.next() {
            steps += 1;
            assert!((1..=last).contains(&users) && steps < 100, "{search:?}");
            search.tell(users, users <= carries);
        }
        (search.passed, steps)
    }

    #[test]
    fn a_search_comes_within_five_percent_in_few_steps() {
        for carries in [1, 7, 250, 251, 1_234, 4_567, 9_999] {
            let (users, steps) = found(carries, 250, 10_000);
            assert!(users <= carries && steps <= 16, "{carries}: {users} in {steps}");
            assert!(carries - users <= carries / 18 + 1, "{carries}: {users}");
        }
    }

    #[test]
    fn a_search_ends_where_it_may_not_go_on() {
        assert_eq!(found(u32::MAX, 250, 1_000), (1_000, 3));
        assert_eq!(found(u32::MAX, 500, 500), (500, 1));
        assert_eq!(found(0, 250, 1_000).0, 0);
    }
}
