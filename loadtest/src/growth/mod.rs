//! What a growing store does to what is asked of it: a server with few messages beside one that is
//! filled step by step, both asked the same, in turn.
//!
//! Both are alive all the time on the same cores, and only one is asked at a time, in slices, so that
//! what slows the machine for a while slows both. Every page is full at every fill: answers are
//! equally long. Before it is measured, a server has had a request about each of its channels: so what
//! differs is only what is stored.

use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use rand::{SeedableRng as _, rngs::SmallRng};
use serde::Serialize;
use serde_json::{Value, json};

mod ask;
mod measure;
mod page;

use self::{
    ask::{Ask, PAGE, Stock, channels_path},
    measure::Waits,
};
use crate::{
    Failure, Verdict,
    import::{
        lines::{Lines, Shape},
        send,
    },
    report::words::{count, grouped},
    server::{
        own::{self, Ground, Own},
        talk::Talk,
        usage::Usage,
    },
    spread::Spread,
};

/// One request of an import.
const CHUNK_BYTES: u64 = 1024 * 1024;
/// Requests a second, of all kinds, while every channel gets its first: as fast as they are answered.
const FIRST_RATE: f64 = 100_000.0;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    #[command(flatten)]
    own: own::Flags,
    /// Messages in the server that grows, at the end.
    #[arg(long, default_value_t = 10_000_000)]
    messages: u64,
    /// Messages in the other server, and in the first step.
    #[arg(long, default_value_t = 10_000)]
    small: u64,
    /// Channels at most. Each has 50 messages before any has more.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    channels: u64,
    /// How often each server is asked in each step.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    slices: u32,
    /// Requests of each kind in each slice.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,
    /// Requests of all kinds a second.
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Connections that they come on.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Where the randomness begins.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What one fill showed.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Step {
    messages: u64,
    channels: u64,
    /// From the step before, in records per second.
    filled_per_s: f64,
    data_bytes: u64,
    resident_bytes: u64,
    asked: Vec<Asked>,
}

/// Of one kind of request.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Asked {
    ask: Ask,
    /// Of all slices together: p50 and p99 in milliseconds.
    small_ms: [f64; 2],
    large_ms: [f64; 2],
    /// Large by small, slice by slice.
    p50_ratio: Option<Spread>,
    p99_ratio: Option<Spread>,
}

pub(crate) async fn run(flags: Flags, is_json: bool) -> Result<Verdict, Failure> {
    flags.check().map_err(Failure::Configuration)?;
    let ground = flags.own.ground()?;
    let setting = format!(
        "{} to {} messages in at most {} channels beside {}; {} slices of {} requests of each kind, \
         {} a second in all on {} connections; {}",
        grouped(count(flags.small)),
        grouped(count(flags.messages)),
        grouped(count(flags.channels)),
        grouped(count(flags.small)),
        flags.slices,
        grouped(count(flags.requests)),
        flags.rate,
        flags.connections,
        ground.setting()
    );
    eprintln!("{setting}");
    let mut random = SmallRng::seed_from_u64(flags.seed);
    let mut large = Store::start(&flags, &ground).await?;
    let mut steps = Vec::new();
    for messages in fills(flags.small, flags.messages) {
        let filled_per_s = large.fill(messages).await?;
        // Publishing lets it grow, too: each step has a new one.
        let mut small = Store::start(&flags, &ground).await?;
        small.fill(flags.small).await?;
        own::settle().await?;
        let asked = compare(&flags, &small, &large, &mut random).await?;
        let step = Step {
            messages,
            channels: large.stock.channels(),
            filled_per_s,
            data_bytes: folder_bytes(&large.own.setup.data_dir)?,
            resident_bytes: Usage::read(large.own.pid()?)?.resident_bytes,
            asked,
        };
        eprintln!("{}", page::lines(&step));
        steps.push(step);
        small.own.end().await?;
    }
    large.own.end().await?;
    let document = json!({ "setting": setting, "steps": steps });
    let text = format!("{setting}\n{}", page::text(&steps));
    flags.own.tell("growth", &document, &text, is_json, Some(&page::svg(&steps)))?;
    Ok(Verdict::Holds)
}

/// 10,000, 30,000, 100,000, …: each about three times the one before, up to the last.
fn fills(first: u64, last: u64) -> Vec<u64> {
    let next = |(fill, is_third): &(u64, bool)| {
        let fill = if *is_third { fill / 3 * 10 } else { fill * 3 };
        (fill < last).then_some((fill, !is_third))
    };
    let mut fills: Vec<_> =
        std::iter::successors(Some((first, false)), next).map(|it| it.0).collect();
    if first < last {
        fills.push(last);
    }
    fills
}

impl Flags {
    fn check(&self) -> Result<()> {
        let whole = |it: u64| it > 0 && it.is_multiple_of(PAGE * PAGE);
        ensure!(
            whole(self.small) && whole(self.messages),
            "--small and --messages are multiples of {}, so that every page is full",
            PAGE * PAGE
        );
        ensure!(self.small <= self.messages, "--small is more than --messages");
        ensure!(self.channels.is_multiple_of(PAGE), "--channels is a multiple of {PAGE}");
        ensure!(self.rate.is_finite() && self.rate > 0.0, "--rate must be more than 0");
        Ok(())
    }
}

/// A server and what is in it.
struct Store {
    own: Own,
    lines: Lines,
    stock: Stock,
}

impl Store {
    async fn start(flags: &Flags, ground: &Ground) -> Result<Self, Failure> {
        let shape = Shape {
            lines: flags.messages,
            invalid: 0,
            prefix: "growth",
            channels: flags.channels,
            run: PAGE,
            authors: 500,
            has_ids: false,
            seed: flags.seed,
        };
        let lines = Lines::new(shape.clone());
        let own = ground.start("growth", 1).await?;
        Ok(Self { own, lines, stock: Stock { shape, messages: 0, cursors: Vec::new() } })
    }

    /// Imports up to so many messages, and looks at the pages of channels: how many records went in per
    /// second.
    async fn fill(&mut self, messages: u64) -> Result<f64> {
        let mut operator = self.own.operator()?;
        let began = Instant::now();
        let before = self.lines.made();
        while self.lines.made() < messages {
            let from = self.lines.made();
            let made = send::made(&mut operator, &mut self.lines, messages, CHUNK_BYTES).await?;
            let counts = made.1.counts().map_err(|wrong| anyhow!(wrong))?;
            let sent = self.lines.made() - from;
            ensure!(counts.added == sent, "of {sent} records {} were added", counts.added);
        }
        let filled_per_s = count(messages - before) / began.elapsed().as_secs_f64().max(1e-6);
        self.stock.messages = messages;
        self.stock.cursors = self.cursors().await.context("the pages of channels")?;
        Ok(filled_per_s)
    }

    /// Where each page of channels begins.
    async fn cursors(&self) -> Result<Vec<Option<String>>> {
        let (mut talk, mut cursors) = (self.own.user(0), vec![None]);
        let mut channels = 0;
        loop {
            let cursor = cursors.last().and_then(Option::as_deref);
            let page: Value = talk.get(&channels_path(cursor)).await?.expect(200)?;
            let names = page["channels"].as_array().map_or(0, |it| it.len() as u64);
            channels += names;
            match page["next"].as_str() {
                Some(next) if names > 0 => cursors.push(Some(next.to_owned())),
                _ => break,
            }
            ensure!(channels <= self.stock.channels(), "there are more than {channels} channels");
        }
        ensure!(
            channels == self.stock.channels(),
            "{channels} channels are listed, and not {}",
            self.stock.channels()
        );
        // Behind the last full page there may be one without anything.
        cursors.truncate(usize::try_from(channels / PAGE)?);
        Ok(cursors)
    }

    /// Asks about every channel once, and takes the answers apart.
    async fn ask_first(&self, flags: &Flags, random: &mut SmallRng) -> Result<()> {
        let requests = self.stock.first_requests(random);
        measure::slice(self.talks(flags), requests, FIRST_RATE, true).await?;
        Ok(())
    }

    async fn ask(&self, flags: &Flags, random: &mut SmallRng) -> Result<Waits> {
        let requests = self.stock.requests(flags.requests, random);
        measure::slice(self.talks(flags), requests, flags.rate, false).await
    }

    fn talks(&self, flags: &Flags) -> Vec<Talk> {
        (0..flags.connections).map(|_| self.own.user(0)).collect()
    }
}

/// Slices of the one and of the other in turn.
async fn compare(
    flags: &Flags,
    small: &Store,
    large: &Store,
    random: &mut SmallRng,
) -> Result<Vec<Asked>> {
    for store in [small, large] {
        store.ask_first(flags, random).await?;
    }
    let mut slices: Vec<[Waits; 2]> = Vec::new();
    for slice in 0..flags.slices {
        // Who is asked first changes.
        let is_turned = slice % 2 == 1;
        let order = if is_turned { [large, small] } else { [small, large] };
        let one = order[0].ask(flags, random).await?;
        let other = order[1].ask(flags, random).await?;
        slices.push(if is_turned { [other, one] } else { [one, other] });
    }
    Ok(Ask::ALL.map(|ask| Asked::of(ask, &slices)).to_vec())
}

impl Asked {
    /// From the waits at the small server and at the large one, slice by slice.
    fn of(ask: Ask, slices: &[[Waits; 2]]) -> Self {
        let all = |which: usize| {
            let mut all = Waits::new();
            slices.iter().for_each(|slice| all.add(&slice[which]));
            [50.0, 99.0].map(|it| all.of(ask).percentile(it))
        };
        let ratio = |percentile| {
            Spread::of_ratios(slices.iter().map(|[small, large]| {
                let of = |waits: &Waits| Some(waits.of(ask).percentile(percentile));
                (of(large), of(small))
            }))
        };
        Self {
            ask,
            small_ms: all(0),
            large_ms: all(1),
            p50_ratio: ratio(50.0),
            p99_ratio: ratio(99.0),
        }
    }
}

/// Of all files in a folder.
fn folder_bytes(folder: &std::path::Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // A file that has just gone is no bytes.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
