//! Flamegraphs of the server, one per phase, asked for on its internal port; and the drawing of those
//! that are there already, of `perf` too.

use std::{
    borrow::Cow,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use inferno::{
    collapse::{self, Collapse as _},
    differential,
    flamegraph::{self, Palette, color::MultiPalette},
};

use crate::{Failure, Verdict, server::ask};

/// What the server takes at most.
const SECONDS_MAX: u64 = 60;
/// How long the server may take on top, to find the names of what it saw.
const NAMES_DEADLINE: Duration = Duration::from_secs(15);

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    /// Folded stacks, as the server's `/debug/profile` answers them.
    stacks: PathBuf,
    /// The SVG to write.
    svg: PathBuf,
    /// Folded stacks from before: draw the difference.
    #[arg(long, value_name = "STACKS")]
    baseline: Option<PathBuf>,
    /// The stacks are the output of `perf script`, without its field `period`; write them folded to
    /// this file too.
    #[arg(long, value_name = "FOLDED")]
    fold_perf: Option<PathBuf>,
    /// What stands above the picture. The name of the stacks' file, if it is not given.
    #[arg(long)]
    title: Option<String>,
}

/// Draws stacks that lie in files.
pub(crate) fn run(flags: &Flags) -> Result<Verdict, Failure> {
    let read = |path: &Path| {
        let text = fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
        text.map(|text| String::from_utf8_lossy(&text).into_owned()).map_err(Failure::configuration)
    };
    let mut stacks = read(&flags.stacks)?;
    if let Some(folded) = &flags.fold_perf {
        stacks = fold_perf(&stacks)?;
        fs::write(folded, &stacks)
            .with_context(|| format!("{} cannot be written", folded.display()))?;
    }
    let baseline = flags.baseline.as_deref().map(read).transpose()?;
    let name = || flags.stacks.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let title = flags.title.clone().unwrap_or_else(name);
    draw(&title, &stacks, baseline.as_deref(), &flags.svg)?;
    Ok(Verdict::Holds)
}

/// The output of `perf script` as folded stacks. Frames of the kernel end in `_[k]`.
fn fold_perf(script: &str) -> Result<String> {
    let mut options = collapse::perf::Options::default();
    options.annotate_kernel = true;
    let mut folded = Vec::new();
    collapse::perf::Folder::from(options)
        .collapse(script.as_bytes(), &mut folded)
        .context("this is no output of `perf script`")?;
    Ok(without_generics(&String::from_utf8(folded)?))
}

/// The stacks, with functions named without the types they were made for, which say little and are
/// long: `poll<Arc<Handle>>` is `poll`. The type that a method belongs to stays.
fn without_generics(stacks: &str) -> String {
    let mut short = String::with_capacity(stacks.len());
    for line in stacks.lines() {
        let (frames, count) = line.rsplit_once(' ').unwrap_or((line, ""));
        for (frame, n) in frames.split(';').zip(0..) {
            short.push_str(if n > 0 { ";" } else { "" });
            short.push_str(&shortened(frame));
        }
        short.push(' ');
        short.push_str(count);
        short.push('\n');
    }
    short
}

/// One name. One whose brackets are not in pairs stays as it is.
fn shortened(frame: &str) -> Cow<'_, str> {
    let mut short = String::with_capacity(frame.len());
    let mut depth = 0_usize;
    let mut before = ' ';
    for letter in frame.chars() {
        let follows_a_name = before.is_alphanumeric() || before == '_' || before == '}';
        let opens = letter == '<' && (depth > 0 || follows_a_name);
        let closes = letter == '>' && before != '-' && depth > 0;
        depth += usize::from(opens);
        if depth == 0 {
            short.push(letter);
        }
        depth -= usize::from(closes);
        before = letter;
    }
    if depth == 0 { Cow::Owned(short) } else { Cow::Borrowed(frame) }
}

/// Asks the server to sample itself for this long, and answers with folded stacks: a line per stack,
/// frames joined by `;`, the outermost first, a space, and the number of samples.
///
/// Servers sample whole seconds, one to sixty: a longer phase is sampled at its beginning.
pub(crate) async fn sample(internal: SocketAddr, time: Duration) -> Result<String> {
    let seconds = time.as_secs().clamp(1, SECONDS_MAX);
    let path = format!("/debug/profile?seconds={seconds}");
    let stacks = ask::get(internal, &path, Duration::from_secs(seconds) + NAMES_DEADLINE).await?;
    Ok(without_generics(&stacks))
}

/// Draws the folded stacks as an SVG flamegraph; beside a baseline, as the difference from it: red
/// where more of the time goes now, blue where less.
pub(crate) fn draw(title: &str, stacks: &str, baseline: Option<&str>, to: &Path) -> Result<()> {
    let samples = count(stacks)?;
    let mut options = flamegraph::Options::default();
    title.clone_into(&mut options.title);
    "samples".clone_into(&mut options.count_name);
    // Ours and our crates' code, Rust's own and C have a colour each, and a function has the same
    // shade in every picture.
    options.colors = Palette::Multi(MultiPalette::Rust);
    options.hash = true;
    let mut svg = Vec::new();
    match baseline {
        None => {
            options.subtitle = Some(format!("{samples} samples"));
            flamegraph::from_lines(&mut options, stacks.lines(), &mut svg)
        }
        Some(baseline) => {
            let before = count(baseline).context("the baseline")?;
            let legend = "red: more of the time than before, blue: less";
            options.subtitle = Some(format!("{samples} samples, before {before}; {legend}"));
            // Runs have different lengths and loads: what is compared is the share of each.
            let of = differential::Options { normalize: true, ..Default::default() };
            let mut lines = Vec::new();
            differential::from_readers(of, baseline.as_bytes(), stacks.as_bytes(), &mut lines)?;
            flamegraph::from_reader(&mut options, lines.as_slice(), &mut svg)
        }
    }
    .context("the stacks cannot be drawn")?;
    fs::write(to, svg).with_context(|| format!("{} cannot be written", to.display()))
}

/// The number of samples. The drawing library would skip lines that it does not understand.
fn count(stacks: &str) -> Result<u64> {
    let mut samples = 0;
    for (line, number) in stacks.lines().zip(1..) {
        let of_line = line
            .rsplit_once(' ')
            .and_then(|(stack, count)| (!stack.is_empty()).then_some(count)?.parse::<u64>().ok());
        samples +=
            of_line.with_context(|| format!("line {number} is no folded stack: `{line}`"))?;
    }
    if samples == 0 {
        bail!("the profile has no samples: the server used no CPU while it was taken");
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ask::tests::answering;

    const BEFORE: &str = "hub;apply 60\nhub;write 40\n";
    const AFTER: &str = "hub;apply 10\nhub;write 90\nedge;<[u8] as Read>::read 5\n";

    fn drawn(stacks: &str, baseline: Option<&str>) -> Result<String> {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("profile.svg");
        draw("plateau <1>", stacks, baseline, &to)?;
        Ok(fs::read_to_string(to).unwrap())
    }

    #[test]
    fn generics_are_left_out_of_names_and_types_are_not() {
        for (name, short) in [
            ("poll<Arc<Handle>, ()>", "poll"),
            (
                "<Box<dyn FnOnce<(), Output = ()> + Send> as FnOnce<()>>::call_once",
                "<Box as FnOnce>::call_once",
            ),
            ("<Vec<u8>>::push", "<Vec>::push"),
            ("{closure#0}<fn(u8) -> Option<u8>>", "{closure#0}"),
            ("<[u8] as Read>::read", "<[u8] as Read>::read"),
            ("operator<", "operator<"),
        ] {
            let stacks = format!("hub;{name};last one 3\nedge 1\n");
            assert_eq!(without_generics(&stacks), format!("hub;{short};last one 3\nedge 1\n"));
        }
    }

    #[test]
    fn a_flamegraph_names_its_frames_and_says_how_many_samples_it_has() {
        let svg = drawn(AFTER, None).unwrap();
        for text in ["<svg", "apply (10 samples", "plateau &lt;1&gt;", "105 samples", "&lt;[u8] as"]
        {
            assert!(svg.contains(text), "no `{text}` in {svg}");
        }
        assert_eq!(svg, drawn(AFTER, None).unwrap(), "colours are drawn by lot");
    }

    #[test]
    fn a_difference_says_by_how_much_each_share_has_changed() {
        let svg = drawn(AFTER, Some(BEFORE)).unwrap();
        assert!(svg.contains("105 samples, before 100"), "{svg}");
        let changed = frames(&svg);
        let of = |name: &str| changed.iter().find(|it| it.starts_with(name)).unwrap().as_str();
        assert!(of("write (90 samples").contains("; +"), "{changed:#?}");
        assert!(of("apply (10 samples").contains("; -"), "{changed:#?}");
        // Twice as many samples of the same are no difference.
        let same = drawn("hub;apply 120\nhub;write 80\n", Some(BEFORE)).unwrap();
        let same = frames(&same);
        assert!(same.iter().any(|it| it.starts_with("write (80 samples")), "{same:#?}");
        assert!(same.iter().all(|it| !it.contains("; +") && !it.contains("; -")), "{same:#?}");
    }

    /// What the frames say of themselves.
    fn frames(svg: &str) -> Vec<String> {
        let titles = svg.split("<title>").skip(1).filter_map(|rest| rest.split_once("</title>"));
        titles.map(|(title, _)| title.to_owned()).collect()
    }

    #[test]
    fn without_samples_there_is_nothing_to_draw() {
        let empty = drawn("", None).unwrap_err();
        assert!(empty.to_string().contains("no samples"), "{empty}");
        let empty = drawn(AFTER, Some("")).unwrap_err();
        assert!(format!("{empty:#}").starts_with("the baseline: the profile has no"), "{empty:#}");
        let garbled = drawn("hub;apply 10\n<html>\n", None).unwrap_err();
        assert!(garbled.to_string().starts_with("line 2 is no folded stack"), "{garbled}");
    }

    #[test]
    fn what_perf_wrote_is_folded_and_drawn_and_a_missing_file_is_the_operators_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let script = "hub  42  1.5: cpu-clock:ppp: \n\
            \tffffffff82010ddb tcp_sendmsg+0x2b ([kernel.kallsyms])\n\
            \t        fde9d writev+0x4d (/usr/lib/libc.so.6)\n\
            \t       9118b1 hubbub::hub::apply+0x11 (/usr/bin/hubbub)\n\n";
        fs::write(at("script"), script).unwrap();
        let mut flags = Flags {
            stacks: at("script"),
            svg: at("picture.svg"),
            baseline: None,
            fold_perf: Some(at("folded")),
            title: None,
        };
        assert!(matches!(run(&flags), Ok(Verdict::Holds)));
        let folded = fs::read_to_string(at("folded")).unwrap();
        assert_eq!(folded, "hub;hubbub::hub::apply;writev;tcp_sendmsg_[k] 1\n");
        assert!(fs::read_to_string(at("picture.svg")).unwrap().contains("tcp_sendmsg (1 samp"));
        flags.baseline = Some(at("nowhere"));
        assert!(matches!(run(&flags), Err(Failure::Configuration(_))));
    }

    #[tokio::test]
    async fn a_server_that_does_not_sample_says_why() {
        let refused = "HTTP/1.0 503 Busy\r\n\r\n{\"title\":\"Busy.\",\"detail\":\"taken\"}";
        let refused = sample(answering(refused).await, Duration::from_millis(1)).await.unwrap_err();
        let refused = refused.to_string();
        assert!(refused.ends_with("/debug/profile?seconds=1 answered 503: taken"), "{refused}");
        let stacks = "HTTP/1.0 200 OK\r\n\r\nhub;apply 3\n";
        let stacks = sample(answering(stacks).await, Duration::from_secs(90)).await.unwrap();
        assert_eq!(stacks, "hub;apply 3\n");
    }
}
