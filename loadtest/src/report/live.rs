//! The view while a run goes on: a progress bar and the figures of the last second. Only on a
//! terminal; elsewhere a line per phase and one every ten seconds.
//!
//! All of it goes to stderr: stdout belongs to the summary or the JSON. It draws when it is told
//! something and has no thread of its own, so that it takes nothing from the generator.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::words;
use crate::{
    outcome::Second,
    scenario::{Login, Scenario, Stage, schedule::Phase},
};

/// Between two lines where there is no terminal, in seconds.
const LINE_EVERY: f64 = 10.0;

#[derive(Debug)]
pub(crate) struct Live {
    progress: Progress,
    /// Absent where stderr is no terminal, or one that cannot move its cursor.
    bars: Option<Bars>,
}

impl Live {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let progress = Progress::new(scenario);
        let bars = Bars::new();
        if let Some(bars) = &bars {
            bars.say(&format!("{}: {}", scenario.name, words::workload(scenario)));
        }
        Self { progress, bars }
    }

    /// A phase begins, this long after the beginning of the run.
    pub(crate) fn phase(&mut self, phase: Phase, at: Duration) {
        let line = self.progress.phase(phase, at);
        match &self.bars {
            Some(bars) => bars.draw(&self.progress, None),
            None => eprintln!("{line}"),
        }
    }

    pub(crate) fn second(&mut self, second: &Second) {
        let line = self.progress.second(second);
        match (&self.bars, line) {
            (Some(bars), _) => bars.draw(&self.progress, Some(second)),
            (None, Some(line)) => eprintln!("{line}"),
            (None, None) => {}
        }
    }

    /// Something that people should know: the server was killed, and is back.
    pub(crate) fn note(&mut self, text: &str) {
        let line = format!("{:>7}  {text}", words::clock(self.progress.at));
        match &self.bars {
            Some(bars) => bars.say(&line),
            None => eprintln!("{line}"),
        }
    }

    /// Takes the view away. What was noted stays.
    pub(crate) fn end(&mut self) {
        if let Some(bars) = self.bars.take() {
            bars.clear();
        }
    }
}

impl Drop for Live {
    /// An aborted run leaves no half-drawn bar under its error.
    fn drop(&mut self) {
        self.end();
    }
}

/// What a terminal shows: one line of progress, and the figures below it.
#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    progress: ProgressBar,
    figures: [ProgressBar; 3],
}

impl Bars {
    fn new() -> Option<Self> {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        if all.is_hidden() {
            return None;
        }
        let line = |template| {
            let bar = all.add(ProgressBar::new(0));
            bar.set_style(style(template));
            bar
        };
        let progress = line(SPINNER);
        let figures = [line(FIGURES), line(FIGURES), line(FIGURES)];
        Some(Self { all, progress, figures })
    }

    fn draw(&self, progress: &Progress, second: Option<&Second>) {
        self.progress.set_prefix(progress.phase.map_or("", words::phase));
        match progress.scheduled() {
            Some((done, all)) => {
                self.progress.set_style(style(BAR));
                self.progress.set_length(milliseconds(all));
                self.progress.set_position(milliseconds(done));
            }
            // How long this takes is unknown.
            None => self.progress.set_style(style(SPINNER)),
        }
        self.progress.set_message(progress.message());
        self.progress.tick();
        if let Some(second) = second {
            for (bar, line) in self.figures.iter().zip(figures(second, progress)) {
                bar.set_message(line);
                bar.tick();
            }
        }
    }

    fn say(&self, line: &str) {
        // A terminal that is gone is no reason to end a run.
        let _ = self.all.println(line);
    }

    fn clear(&self) {
        self.progress.finish_and_clear();
        self.figures.iter().for_each(ProgressBar::finish_and_clear);
        let _ = self.all.clear();
    }
}

// indicatif leaves the colours out where NO_COLOR is set.
const BAR: &str = "{prefix:<10}{bar:32.cyan/dim} {msg}";
const SPINNER: &str = "{prefix:<10}{spinner:.cyan} {msg}";
const FIGURES: &str = "          {msg}";

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the templates are constant");
    style.progress_chars("━╸─")
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Where a run is. Pure: it makes the words, others show them.
#[derive(Debug)]
struct Progress {
    users: u32,
    stages: Vec<Stage>,
    /// When the first stage began.
    stages_begin: Option<Duration>,
    /// From the end of the logins to the end of the last stage.
    scheduled: Duration,
    /// When the logins ended, where they come first.
    scheduled_begin: Option<Duration>,
    phase: Option<Phase>,
    /// Seconds since the beginning of the run.
    at: f64,
    connected: u32,
    active: u32,
    /// Of the last second, which may not have been exactly one.
    messages_per_s: f64,
    deliveries_per_s: f64,
    /// Since the beginning.
    errors: u64,
    reconnects: u64,
    line_due: f64,
}

impl Progress {
    fn new(scenario: &Scenario) -> Self {
        let stages: Duration = scenario.stages.iter().map(|stage| stage.duration).sum();
        let idle = if scenario.login == Login::During { Duration::ZERO } else { scenario.idle };
        Self {
            users: scenario.users,
            stages: scenario.stages.clone(),
            stages_begin: None,
            scheduled: stages + idle,
            scheduled_begin: None,
            phase: None,
            at: 0.0,
            connected: 0,
            active: 0,
            messages_per_s: 0.0,
            deliveries_per_s: 0.0,
            errors: 0,
            reconnects: 0,
            line_due: LINE_EVERY,
        }
    }

    /// The line that says that it begins.
    fn phase(&mut self, phase: Phase, at: Duration) -> String {
        self.phase = Some(phase);
        self.at = self.at.max(at.as_secs_f64());
        if phase != Phase::Login {
            self.scheduled_begin.get_or_insert(at);
        }
        if matches!(phase, Phase::RampUp | Phase::Plateau | Phase::RampDown) {
            self.stages_begin.get_or_insert(at);
        }
        let name = words::phase(phase);
        let users = match phase {
            Phase::Login => format!(": {} users", words::grouped(self.users.into())),
            Phase::Idle => format!(": {} users connected", words::grouped(self.connected.into())),
            Phase::Plateau => format!(": {} users", words::grouped(self.target(at).into())),
            Phase::RampUp | Phase::RampDown | Phase::Drain | Phase::Audit => String::new(),
        };
        let begins = if phase == Phase::Login { "begin" } else { "begins" };
        format!("{:>7}  {name} {begins}{users}", words::clock(at.as_secs_f64()))
    }

    /// How many users the stage that goes on now wants to be active at its end.
    fn target(&self, at: Duration) -> u32 {
        // A phase is told a little early or late.
        const TOLERANCE: Duration = Duration::from_millis(500);
        let mut rest = at.saturating_sub(self.stages_begin.unwrap_or(at)) + TOLERANCE;
        for stage in &self.stages {
            match rest.checked_sub(stage.duration) {
                Some(later) => rest = later,
                None => return stage.target,
            }
        }
        self.active
    }

    /// The line for where there is no terminal, if one is due.
    fn second(&mut self, second: &Second) -> Option<String> {
        let length = if second.at - self.at > 0.05 { second.at - self.at } else { 1.0 };
        self.messages_per_s = words::count(second.messages) / length;
        self.deliveries_per_s = words::count(second.deliveries) / length;
        self.at = second.at;
        (self.connected, self.active) = (second.connected, second.active);
        self.errors += second.errors;
        self.reconnects += second.reconnects;
        // Seconds come a little early or late.
        if second.at + 0.5 < self.line_due {
            return None;
        }
        self.line_due = second.at + LINE_EVERY;
        let name = self.phase.map_or("", words::phase);
        let [users, latency, machine] = figures(second, self);
        Some(format!("{:>7}  {name}: {users}; {latency}; {machine}", words::clock(second.at)))
    }

    /// How much of the schedule is done, of how much; `None` before it begins and after its end.
    fn scheduled(&self) -> Option<(Duration, Duration)> {
        let begin = self.scheduled_begin?;
        if matches!(self.phase, Some(Phase::Drain | Phase::Audit)) {
            return None;
        }
        let now = Duration::try_from_secs_f64(self.at).unwrap_or_default();
        Some((now.saturating_sub(begin).min(self.scheduled), self.scheduled))
    }

    /// What stands behind the bar or the spinner.
    fn message(&self) -> String {
        let now = words::clock(self.at);
        match (self.scheduled(), self.phase) {
            (Some((done, all)), _) => {
                format!("{now}, {} left", words::clock((all - done).as_secs_f64()))
            }
            (None, None | Some(Phase::Login)) => {
                let [connected, users] =
                    [self.connected, self.users].map(|it| words::grouped(it.into()));
                format!("{connected} of {users} connected, {now}")
            }
            (None, Some(_)) => now,
        }
    }
}

/// The figures of a second: the users, the waits, the machine.
fn figures(second: &Second, progress: &Progress) -> [String; 3] {
    let grouped = |count: u32| words::grouped(count.into());
    let users = format!(
        "{} connected, {} active, {} messages/s, {} deliveries/s",
        grouped(second.connected),
        grouped(second.active),
        words::number(progress.messages_per_s),
        words::grouped(progress.deliveries_per_s),
    );
    let deliver = second.deliver.map_or_else(
        || "deliver –".to_owned(),
        |[p50, _, _, p99, max]| {
            let [p50, p99, max] = [p50, p99, max].map(words::ms);
            format!("deliver p50 {p50} p99 {p99} max {max} ms")
        },
    );
    let ack = second.ack.map_or_else(
        || "ack –".to_owned(),
        |[_, _, _, p99, _]| format!("ack p99 {} ms", words::ms(p99)),
    );
    let server =
        second.server_cpu.map(|cpu| format!("server {cpu:.0} % CPU, ")).unwrap_or_default();
    let machine = format!(
        "{server}generator {:.0} % CPU, {} errors, {} reconnects",
        second.generator_cpu,
        words::grouped(words::count(progress.errors)),
        words::grouped(words::count(progress.reconnects)),
    );
    [users, format!("{deliver}, {ack}"), machine]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    fn progress() -> Progress {
        Progress::new(&Scenario::default())
    }

    #[test]
    fn before_the_schedule_one_sees_how_many_are_connected() {
        let mut progress = progress();
        progress.phase(Phase::Login, Duration::ZERO);
        progress.second(&Second { at: 5.0, connected: 212, ..Second::default() });
        assert_eq!(progress.scheduled(), None);
        assert_eq!(progress.message(), "212 of 425 connected, 0:05");
    }

    #[test]
    fn the_schedule_begins_when_the_logins_end() {
        let mut progress = progress();
        progress.phase(Phase::Login, Duration::ZERO);
        progress.phase(Phase::Idle, Duration::from_secs(16));
        progress.second(&Second { at: 26.0, ..Second::default() });
        let seconds = Duration::from_secs;
        assert_eq!(progress.scheduled(), Some((seconds(10), seconds(82))));
        assert_eq!(progress.message(), "0:26, 1:12 left");
        progress.second(&Second { at: 500.0, ..Second::default() });
        assert_eq!(progress.scheduled(), Some((seconds(82), seconds(82))));
    }

    #[test]
    fn users_who_log_in_during_the_run_have_no_idle_time() {
        let scenario = Scenario { login: Login::During, ..Scenario::default() };
        assert_eq!(Progress::new(&scenario).scheduled, Duration::from_secs(80));
    }

    #[test]
    fn a_plateau_begins_with_the_users_that_it_is_for() {
        let mut progress = progress();
        progress.phase(Phase::RampUp, Duration::from_secs(18));
        // The last one to join may not have been counted yet.
        progress.second(&Second { at: 27.0, active: 383, connected: 425, ..Second::default() });
        let line = progress.phase(Phase::Plateau, Duration::from_millis(27_990));
        assert_eq!(line, "   0:28  plateau begins: 425 users");
    }

    #[test]
    fn without_a_terminal_ten_seconds_are_one_line() {
        let mut progress = progress();
        progress.phase(Phase::RampUp, Duration::ZERO);
        let seconds = example::outcome().seconds;
        let lines: Vec<_> = seconds.iter().filter_map(|it| progress.second(it)).collect();
        assert_eq!(lines.len(), 10);
        assert!(lines.iter().all(|line| !line.contains('\u{1b}') && !line.contains('\n')));
    }

    #[test]
    fn errors_are_told_since_the_beginning() {
        let mut progress = progress();
        for at in [1.0, 2.0, 3.0] {
            progress.second(&Second { at, errors: 2, reconnects: 1, ..Second::default() });
        }
        let [_, _, machine] = figures(&Second::default(), &progress);
        assert!(machine.ends_with("6 errors, 3 reconnects"), "{machine}");
    }

    #[test]
    fn a_second_without_deliveries_has_no_latency() {
        let [_, latency, machine] = figures(&Second::default(), &progress());
        assert_eq!(latency, "deliver –, ack –");
        assert!(!machine.contains("server"), "{machine}");
    }
}
