//! `loadtest run`: flags → a scenario and a site → one run → what people and machines get of it.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};

use crate::{
    Failure, Verdict,
    outcome::Outcome,
    report::{page, summary},
    scenario,
};

pub(crate) mod conductor;
pub(crate) mod figures;
mod flamegraphs;
mod mischief;
mod returns;
pub(crate) mod site;
mod storm;

use conductor::Extras;
use site::Site;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    #[command(flatten)]
    scenario: scenario::Flags,
    #[command(flatten)]
    site: site::Flags,
    /// Write the run as one HTML page.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Sample the server in each phase, and write flamegraphs beside the page.
    #[arg(long, requires = "report")]
    profile: bool,
    /// An earlier page that was written with --profile: also draw the difference from it.
    #[arg(long, value_name = "FILE", requires = "profile")]
    profile_baseline: Option<PathBuf>,
}

pub(crate) async fn run(flags: Flags, is_json: bool) -> Result<Verdict, Failure> {
    let scenario = flags.scenario.load()?;
    scenario.check()?;
    let site = Site::new(&flags.site, &scenario)?;
    if let Some(report) = &flags.report {
        check_writable(report)?;
    }
    if flags.profile && !site.has_internal_port() {
        let wrong = anyhow!("--profile asks the server's internal port: say where, by --internal");
        return Err(Failure::configuration(wrong));
    }
    let is_profiled = flags.profile;
    let run = conductor::execute(&scenario, site, Extras { is_profiled, is_quiet: false }).await?;

    if let Some(report) = &flags.report {
        let baseline = flags.profile_baseline.as_deref();
        let pictures = flamegraphs::write(&run.profiles, report, baseline)?;
        let page = page::html(&run.outcome, &pictures);
        std::fs::write(report, page)
            .with_context(|| format!("{} cannot be written", report.display()))?;
        eprintln!("report: {}", report.display());
    }
    if is_json {
        println!("{:#}", serde_json::to_value(&run.outcome)?);
    } else {
        print!("{}", summary::text(&run.outcome));
    }
    Ok(verdict(&run.outcome))
}

/// A run holds if nothing was violated and every threshold was kept.
pub(crate) fn verdict(outcome: &Outcome) -> Verdict {
    let holds = outcome.violations == 0 && outcome.thresholds.iter().all(|it| it.holds);
    if holds { Verdict::Holds } else { Verdict::Broken }
}

/// An hour's run is not to end with a page that has no place.
fn check_writable(report: &std::path::Path) -> Result<(), Failure> {
    let folder = report.parent().filter(|it| !it.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) || report.is_dir() {
        let report = report.display();
        return Err(Failure::configuration(anyhow!("--report {report}: there is no such folder")));
    }
    Ok(())
}
