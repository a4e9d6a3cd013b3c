//! `wrk`, which posts: its script, its run, and what it says.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::report::words::count;

/// What it is asked for.
const SCRIPT: &str = include_str!("wrk.lua");
/// What the line with its exact figures begins with.
const MARK: &str = "wrk.lua: ";
/// How much longer than its duration it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How it posts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) connections: u32,
    pub(super) threads: u32,
    pub(super) body_bytes: usize,
}

/// Where it posts, and as whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) address: SocketAddr,
    pub(super) path: &'a str,
    pub(super) token: &'a str,
}

/// What it says.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(super) struct Posted {
    pub(super) seconds: f64,
    /// Answered with success.
    pub(super) accepted: u64,
    /// Answered with 400 or more.
    pub(super) refused: u64,
    /// Connections that failed, and answers that did not come within 2 s.
    pub(super) unanswered: u64,
    pub(super) accepted_per_s: f64,
    /// p50, p90, p99 and the longest.
    pub(super) latency_ms: [f64; 4],
}

/// As the script prints it.
#[derive(Deserialize)]
struct Done {
    duration_us: u64,
    requests: u64,
    refused: u64,
    connect: u64,
    read: u64,
    write: u64,
    timeout: u64,
    latency_us: [u64; 4],
}

/// Why there is no `wrk`, if there is none.
pub(super) fn missing() -> Option<String> {
    // It answers its version with status 1.
    let found = std::process::Command::new("wrk").arg("--version").output();
    found.err().map(|error| {
        format!(
            "`wrk` cannot be started ({error}): install the package `wrk`; `cargo xtask peers \
             --install` does it on Debian, as root"
        )
    })
}

impl Load {
    /// Posts for so many seconds, on the cores that this thread may use.
    pub(super) async fn post(
        &self,
        target: Target<'_>,
        seconds: u64,
        folder: &Path,
    ) -> Result<Posted> {
        let script = folder.join("wrk.lua");
        std::fs::write(&script, self.script(target.token))?;
        let mut command = Command::new("wrk");
        command.arg("--connections").arg(self.connections.to_string());
        command.arg("--threads").arg(self.threads.to_string());
        command.arg("--duration").arg(format!("{seconds}s")).arg("--latency");
        command.arg("--script").arg(script);
        command.arg(format!("http://{}{}", target.address, target.path));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let patience = Duration::from_secs(seconds) + PATIENCE;
        let output = tokio::time::timeout(patience, command.output()).await;
        let output = output.context("wrk does not end")?.context("wrk cannot be started")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("wrk failed ({}): {}{}", output.status, said.trim_end(), error.trim_end());
        }
        parse(&said)
    }

    fn script(&self, token: &str) -> String {
        let body = format!(r#"{{"body":"{}"}}"#, "x".repeat(self.body_bytes));
        let script = SCRIPT.replace("@MARK@", MARK);
        script.replace("@TOKEN@", token).replace("@BODY@", &body)
    }
}

/// What it printed, of which the line of the script is what counts.
fn parse(said: &str) -> Result<Posted> {
    let line = said.lines().find_map(|line| line.strip_prefix(MARK));
    let line = line.with_context(|| format!("wrk did not come to its end: {}", said.trim_end()))?;
    let done: Done = serde_json::from_str(line).with_context(|| format!("wrk said `{line}`"))?;
    let accepted = done.requests.checked_sub(done.refused);
    let accepted = accepted.with_context(|| format!("more refusals than answers: `{line}`"))?;
    let seconds = Duration::from_micros(done.duration_us).as_secs_f64();
    Ok(Posted {
        seconds,
        accepted,
        refused: done.refused,
        unanswered: done.connect + done.read + done.write + done.timeout,
        accepted_per_s: count(accepted) / seconds.max(1e-6),
        latency_ms: done.latency_us.map(|us| count(us) / 1e3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { connections: 20, threads: 2, body_bytes: 4 };

    /// As wrk 4.1.0 prints it.
    const SAID: &str = "\
Running 4s test @ http://127.0.0.1:8899/v1/channels/posts/messages
  2 threads and 20 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.55ms  281.74us   5.99ms   85.05%
    Req/Sec     6.49k   484.35     7.57k    75.61%
  Latency Distribution
     50%    1.51ms
     99%    2.48ms
  53018 requests in 4.10s, 8.53MB read
  Socket errors: connect 0, read 2, write 1, timeout 3
  Non-2xx or 3xx responses: 18
Requests/sec:  12932.93
Transfer/sec:      2.08MB
wrk.lua: {\"duration_us\":4000000,\"requests\":53018,\"refused\":18,\"connect\":0,\"read\":2,\"write\":1,\
         \"timeout\":3,\"latency_us\":[1510,1790,2485,5990]}
";

    #[test]
    fn the_exact_figures_stand_behind_those_for_people() {
        let expected = Posted {
            seconds: 4.0,
            accepted: 53_000,
            refused: 18,
            unanswered: 6,
            accepted_per_s: 13_250.0,
            latency_ms: [1.51, 1.79, 2.485, 5.99],
        };
        assert_eq!(parse(SAID).unwrap(), expected);
    }

    #[test]
    fn an_output_without_them_is_quoted() {
        let cut = SAID.split("wrk.lua").next().unwrap();
        let error = parse(cut).unwrap_err().to_string();
        assert!(error.contains("did not come to its end: Running 4s test"), "{error}");
        let wrong = SAID.replace("\"refused\":18", "\"refused\":99999999");
        assert!(parse(&wrong).unwrap_err().to_string().contains("more refusals"));
        assert!(parse(&SAID.replace("\"requests\"", "\"x\"")).is_err());
    }

    #[test]
    fn the_script_has_the_token_and_the_body() {
        let script = LOAD.script("a.b.c");
        assert!(script.contains("\"Bearer a.b.c\"") && script.contains(r#"'{"body":"xxxx"}'"#));
        assert!(script.contains("'wrk.lua: {") && !script.contains('@'));
    }
}
