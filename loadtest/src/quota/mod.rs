//! A channel's quota under crashes: many posters want more than there is room for, the server is
//! killed at random moments meanwhile, and at the end the channel holds exactly what it may, namely
//! what was acknowledged.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

mod verdict;

use self::verdict::{Ledger, body};
use crate::{
    Failure, Verdict,
    posts::history,
    server::{
        own::{self, Own},
        talk::{Answer, Talk},
    },
};

const CHANNEL: &str = "quota";
/// What a post says that found no room.
const EXHAUSTED: &str = "quota_exhausted";
/// How long a post is tried. Beyond it the server is taken for broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one try may take: a server that was killed does not always say so.
const TRY_DEADLINE: Duration = Duration::from_secs(5);
/// Between two tries of one post.
const PAUSE: Duration = Duration::from_millis(10);
/// How often the progress is looked at, for the next kill.
const PROGRESS_CHECK: Duration = Duration::from_millis(1);

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    #[command(flatten)]
    own: own::Flags,
    /// The quota of the channel.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    messages_max: u64,
    /// Posts beyond it.
    #[arg(long, default_value_t = 5_000)]
    beyond: u64,
    /// Users who post, each on a connection of its own.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    posters: u32,
    /// How often the server is killed meanwhile.
    #[arg(long, default_value_t = 5)]
    kills: u32,
    /// Where the randomness begins. Drawn, and printed, if it is not given.
    #[arg(long)]
    seed: Option<u64>,
}

/// What the posters share.
struct Shared {
    /// How many are to be made.
    posts: u64,
    next: AtomicU64,
    ledger: Mutex<Ledger>,
    /// Tries beyond the first of each post.
    retries: AtomicU64,
    /// Posts of which a retry found that they had been accepted before.
    found: AtomicU64,
}

impl Shared {
    fn new(posts: u64) -> Self {
        let (next, retries, found) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { posts, next, ledger: Mutex::default(), retries, found }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) async fn run(flags: Flags, is_json: bool) -> Result<Verdict, Failure> {
    let seed = flags.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    eprintln!("seed {seed}");
    let ground = flags.own.ground()?;
    let posters = flags.posters as usize;
    let mut own = ground.start("quota", posters).await?;
    own.create_channel(json!({ "quota": { "messages_max": flags.messages_max } }), CHANNEL).await?;

    let shared = Arc::new(Shared::new(flags.messages_max + flags.beyond));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for poster in 0..posters {
        tasks.spawn(post_all(Arc::clone(&shared), own.user(poster)));
    }
    let moments = moments(flags.kills, shared.posts, &mut SmallRng::seed_from_u64(seed));
    let posting = async {
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    // Whichever fails first ends both.
    let kills = tokio::try_join!(posting, kill(&mut own, &shared, &moments))?.1;
    let seconds = began.elapsed().as_secs_f64();
    let history = history::read(&mut own.user(0), CHANNEL).await.context("after the last post")?;
    let ledger = shared.ledger().clone();
    let verdict = ledger.judge(&history.messages, flags.messages_max);

    let [retries, found] = [&shared.retries, &shared.found].map(|it| it.load(Ordering::Relaxed));
    let document = json!({
        "seed": seed,
        "messages_max": flags.messages_max,
        "posts": shared.posts,
        "posters": posters,
        "kills": kills,
        "seconds": seconds,
        "accepted": ledger.accepted(),
        "quota_exhausted": ledger.refused(),
        "retries": retries,
        "found_accepted_before": found,
        "in_history": history.messages.len(),
        "violations": verdict.violations,
        "evidence": verdict.evidence,
    });
    let mut text = format!(
        "posts         {} by {posters} posters in {seconds:.1} s, {kills} kills, seed {seed}\n\
         accepted      {}\n\
         exhausted     {}\n\
         sent again    {retries}, of which {found} had been accepted before\n\
         in history    {} of {}\n",
        shared.posts,
        ledger.accepted(),
        ledger.refused(),
        history.messages.len(),
        flags.messages_max
    );
    for violation in &verdict.evidence {
        text += &format!("VIOLATION     {violation}\n");
    }
    let is_broken = verdict.violations > 0;
    let word = if is_broken { "BROKEN" } else { "holds" };
    text += &format!("quota         {word}: {} violations\n", verdict.violations);
    flags.own.tell("quota", &document, &text, is_json, None)?;
    if is_broken {
        eprintln!("the server's data and log are kept in {}", own.keep().await?.display());
    }
    Ok(if is_broken { Verdict::Broken } else { Verdict::Holds })
}

/// The numbers of answers after which the server is killed, ascending, drawn from all of the run: before
/// the quota is exhausted and after.
fn moments(kills: u32, posts: u64, random: &mut SmallRng) -> Vec<u64> {
    let mut moments: Vec<_> = (0..kills).map(|_| random.random_range(0..posts.max(1))).collect();
    moments.sort_unstable();
    moments
}

/// Kills the server at these moments and starts it again. Answers how often.
async fn kill(own: &mut Own, shared: &Shared, moments: &[u64]) -> Result<u32> {
    let mut kills = 0;
    let mut before = 0;
    for &moment in moments {
        let mut since = Instant::now();
        loop {
            let answered = shared.ledger().answered();
            if answered >= moment {
                break;
            }
            if answered > before {
                (before, since) = (answered, Instant::now());
            }
            if since.elapsed() > PATIENCE {
                bail!("no post was answered for {PATIENCE:?}");
            }
            tokio::time::sleep(PROGRESS_CHECK).await;
        }
        own.kill().await?;
        kills += 1;
        own.restart().await.with_context(|| format!("after kill {kills}"))?;
    }
    Ok(kills)
}

/// Takes one post after the other, until none is left.
async fn post_all(shared: Arc<Shared>, mut talk: Talk) -> Result<()> {
    talk.deadline = TRY_DEADLINE;
    loop {
        let post = shared.next.fetch_add(1, Ordering::Relaxed);
        if post >= shared.posts {
            return Ok(());
        }
        post_one(&shared, &mut talk, post).await?;
    }
}

/// What an answer means.
#[derive(PartialEq, Eq, Debug)]
enum Word {
    Accepted {
        sequence: u64,
        before: bool,
    },
    Exhausted,
    /// Nobody knows, or nothing was done: once more.
    Again(String),
}

async fn post_one(shared: &Shared, talk: &mut Talk, post: u64) -> Result<()> {
    let path = format!("/v1/channels/{CHANNEL}/messages");
    let json = json!({ "body": body(post) }).to_string();
    let key = post.to_string();
    let began = Instant::now();
    loop {
        let answer = talk.ask("POST", &path, &[("Idempotency-Key", &key)], Some(&json)).await;
        match word(answer)? {
            Word::Accepted { sequence, before } => {
                shared.found.fetch_add(u64::from(before), Ordering::Relaxed);
                shared.ledger().accept(post, sequence);
                return Ok(());
            }
            Word::Exhausted => {
                shared.ledger().refuse(post);
                return Ok(());
            }
            Word::Again(said) if began.elapsed() > PATIENCE => {
                shared.ledger().give_up(post, said);
                return Ok(());
            }
            Word::Again(_) => {
                shared.retries.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// # Errors
/// When the answer is one that no post should get.
fn word(answer: Result<Answer>) -> Result<Word> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Ok(Word::Again(format!("{error:#}"))),
    };
    Ok(match answer.status {
        status @ (200 | 201) => {
            let said: Value = answer.expect(status)?;
            let sequence = said["sequence"].as_u64().context("an answer without a sequence")?;
            Word::Accepted { sequence, before: status == 200 }
        }
        409 if answer.is_problem(EXHAUSTED) => Word::Exhausted,
        status @ (429 | 500..=599) => Word::Again(status.to_string()),
        _ => {
            answer.expect::<Value>(201)?;
            Word::Again("never".to_owned())
        }
    })
}

#[cfg(test)]
mod tests;
