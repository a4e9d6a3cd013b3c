//! `hubbub auth calibrate`: what a password's hash may cost on this machine.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use bytesize::ByteSize;
use clap::Args;
use hubbub::auth::{
    calibrate::{self, Goal, Proposal, Step},
    password::Memory,
};
use serde_json::json;

use super::CliError;

#[derive(Debug, Args)]
pub(crate) struct CalibrateArgs {
    /// How long one hash may take
    #[arg(long, default_value = "250ms", value_parser = parse_duration)]
    target: Duration,
    /// How much memory one hash may fill. Each worker holds as much
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    memory_max: ByteSize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

pub(crate) fn run(args: &CalibrateArgs) -> Result<(), CliError> {
    let goal = Goal { target: args.target, memory_max: args.memory_max };
    let mut memory = Memory::default();
    let proposal = calibrate::search(goal, |cost| calibrate::measure(cost, &mut memory))?;
    let text = if args.json { as_json(goal, &proposal) } else { as_text(goal, &proposal) };
    io::stdout().write_all(text.as_bytes()).map_err(CliError::Output)
}

fn as_text(goal: Goal, Proposal { steps, chosen }: &Proposal) -> String {
    let mut text = String::from("  memory  passes     time   hashes/s per worker\n");
    for step in steps {
        let mark = if step == chosen { '*' } else { ' ' };
        let (memory, passes, time) = (mib(step), step.cost.passes, ms(step.took));
        let rate = step.hashes_per_second();
        let _ = writeln!(text, "{mark} {memory:>3} MiB  {passes:>6}  {time:>4} ms  {rate:>8.1}");
    }
    if chosen.took > goal.target {
        let _ = writeln!(
            text,
            "\nThe least cost that passwords should have takes longer than {} ms here.",
            ms(goal.target)
        );
    }
    let _ = write!(
        text,
        "\nA worker makes {:.1} hashes a second and holds {} MiB. Measured on one thread with nothing \
         beside it; more workers at once share the memory's speed. In hubbub.toml:\n\n\
         [auth.cost]\nmemory = \"{}MiB\"\npasses = {}\nlanes = {}\n",
        chosen.hashes_per_second(),
        mib(chosen),
        mib(chosen),
        chosen.cost.passes,
        chosen.cost.lanes,
    );
    text
}

fn as_json(goal: Goal, Proposal { steps, chosen }: &Proposal) -> String {
    let step = |step: &Step| {
        json!({
            "memory_mib": mib(step),
            "passes": step.cost.passes,
            "lanes": step.cost.lanes,
            "ms": (step.took.as_secs_f64() * 1e5).round() / 100.0,
            "hashes_per_second_per_worker": (step.hashes_per_second() * 10.0).round() / 10.0,
        })
    };
    let document = json!({
        "target_ms": ms(goal.target),
        "memory_max_mib": goal.memory_max.as_u64() >> 20,
        "steps": steps.iter().map(step).collect::<Vec<_>>(),
        "proposal": step(chosen),
        "within_target": chosen.took <= goal.target,
    });
    format!("{document:#}\n")
}

fn mib(step: &Step) -> u64 {
    step.cost.memory.as_u64() >> 20
}

fn ms(duration: Duration) -> u128 {
    duration.as_millis()
}

#[cfg(test)]
mod tests {
    use hubbub::auth::password::Cost;

    use super::*;

    fn proposal() -> Proposal {
        let step = |memory_mib, passes, ms| Step {
            cost: Cost { memory: ByteSize::mib(memory_mib), passes, lanes: 1 },
            took: Duration::from_millis(ms),
        };
        Proposal { steps: vec![step(19, 2, 10), step(256, 3, 200)], chosen: step(256, 3, 200) }
    }

    fn goal(target_ms: u64) -> Goal {
        Goal { target: Duration::from_millis(target_ms), memory_max: ByteSize::mib(256) }
    }

    #[test]
    fn the_lines_for_the_configuration_are_those_of_the_proposal() {
        let text = as_text(goal(250), &proposal());
        assert!(
            text.ends_with("[auth.cost]\nmemory = \"256MiB\"\npasses = 3\nlanes = 1\n"),
            "{text}"
        );
        assert!(text.contains("\n* 256 MiB       3   200 ms       5.0\n"), "{text}");
        assert!(text.contains("\n   19 MiB       2    10 ms     100.0\n"), "{text}");
        assert!(!text.contains("longer than"), "{text}");
        assert!(as_text(goal(100), &proposal()).contains("longer than 100 ms"));
    }

    #[test]
    fn the_json_has_every_step_and_the_proposal() {
        let document: serde_json::Value =
            serde_json::from_str(&as_json(goal(250), &proposal())).unwrap();
        assert_eq!(document["steps"].as_array().unwrap().len(), 2);
        assert_eq!(document["proposal"]["memory_mib"], 256);
        assert_eq!(document["proposal"]["hashes_per_second_per_worker"], 5.0);
        assert_eq!(document["within_target"], true);
    }
}
