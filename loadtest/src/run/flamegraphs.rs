//! A flamegraph of the server for each phase of a run, and the files beside the report that hold
//! them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{profile, scenario::schedule::Phase};

/// Of logins, whose end is not known beforehand.
pub(crate) const LOGIN_TIME: Duration = Duration::from_secs(3);
/// A shorter phase is not worth a profile.
pub(crate) const TIME_MIN: Duration = Duration::from_secs(2);
/// Beyond the time of sampling: how long a profile may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(90);
/// A long phase is sampled in part.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Between two phases the server must have given its answer.
const MARGIN: Duration = Duration::from_millis(500);

/// The stacks that were seen in one phase.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) phase: Phase,
    /// Folded.
    pub(crate) stacks: String,
}

/// Samples the server for this phase.
pub(crate) async fn take(internal: SocketAddr, phase: Phase, time: Duration) -> Result<Profile> {
    let stacks = profile::sample(internal, time.saturating_sub(MARGIN).min(TIME_MAX)).await?;
    Ok(Profile { phase, stacks })
}

/// Writes `{report}-{phase}.folded` and `{report}-{phase}.svg`, and the difference from the same
/// phase of an earlier report. Answers a title and a file name for each picture.
pub(crate) fn write(
    profiles: &[Profile],
    report: &Path,
    baseline: Option<&Path>,
) -> Result<Vec<(String, String)>> {
    let mut pictures = Vec::new();
    for Profile { phase, stacks } in profiles {
        let folded = beside(report, *phase, "folded");
        fs::write(&folded, stacks)
            .with_context(|| format!("{} cannot be written", folded.display()))?;
        let mut draw = |title: String, earlier: Option<&str>, ending| -> Result<()> {
            let picture = beside(report, *phase, ending);
            profile::draw(&title, stacks, earlier, &picture)?;
            let name = picture.file_name().unwrap_or_default().to_string_lossy().into_owned();
            pictures.push((title, name));
            Ok(())
        };
        draw(format!("{}: where the server's CPU goes", name(*phase)), None, "svg")?;
        if let Some(baseline) = baseline {
            let folded = beside(baseline, *phase, "folded");
            let earlier = fs::read_to_string(&folded)
                .with_context(|| format!("the baseline {} cannot be read", folded.display()))?;
            let title = format!("{}: what changed since the baseline", name(*phase));
            draw(title, Some(&earlier), "diff.svg")?;
        }
    }
    Ok(pictures)
}

fn beside(report: &Path, phase: Phase, ending: &str) -> PathBuf {
    let stem = report.file_stem().unwrap_or_default().to_string_lossy();
    report.with_file_name(format!("{stem}-{}.{ending}", name(phase)))
}

/// As in the outcome.
fn name(phase: Phase) -> String {
    serde_json::to_value(phase)
        .ok()
        .and_then(|it| Some(it.as_str()?.to_owned()))
        .unwrap_or_default()
}
