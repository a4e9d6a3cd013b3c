//! How often: token buckets for addresses, accounts and users, in tables that cannot grow. Pure: the caller
//! brings the time.
//!
//! A bucket begins full, a request takes one token out of it, and it fills up again at its rate. A
//! full bucket says nothing that its absence does not, so none is kept: a table holds what was used
//! of late, and nothing of who has been quiet since.
//!
//! A table has a bound. When more buckets are in use than it holds, full ones go first, then the least
//! recently used, whose owner begins with a full one again. So who wants an empty bucket of theirs to
//! be forgotten must use as many other keys as the table holds within the time that one token takes
//! to come back, and be let through with each. With [`BUCKETS_MAX`](crate::limits::BUCKETS_MAX) that
//! is far more than the buckets of one address let through, and more than the workers hash; it takes
//! an attacker with that many addresses, whom no limit by address stops, and whom the mailbox of the
//! workers bounds.
//!
//! Keys may be those of other people's choice, so where they lie follows from a seed of our own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher as _, Hash, RandomState},
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

/// What is limited as one client: an IPv4 address, or the 64 bits of an IPv6 address of which one
/// customer of a network has all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AddressPrefix {
    /// A whole address, also when it comes mapped into IPv6.
    V4(Ipv4Addr),
    /// The first half of an address.
    V6(u64),
}

impl From<IpAddr> for AddressPrefix {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6(
                    [a, b, c, d].into_iter().fold(0, |bits, part| bits << 16 | u64::from(part)),
                )
            }
        }
    }
}

/// A user name as a key of 64 bits, so that a table of them is small whatever people type. Two names
/// of one key share a bucket; nobody can look for such names without the seed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AccountKey(u64);

/// Makes the account keys of this process.
#[derive(Clone, Debug, Default)]
pub struct AccountKeys(RandomState);

impl AccountKeys {
    /// The key of a user name that has been folded to the one form of it. The name need not exist:
    /// limits hold for every name alike.
    #[must_use]
    pub fn key(&self, folded_username: &str) -> AccountKey {
        AccountKey(self.0.hash_one(folded_username))
    }
}

/// How often is allowed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rate {
    /// Tokens that come back per second.
    per_second: f64,
    /// Tokens in a full bucket.
    burst: u32,
}

impl Rate {
    /// A rate; none when it is not positive and finite, or lets nothing through.
    #[must_use]
    pub fn new(per_second: f64, burst: u32) -> Option<Self> {
        (per_second.is_finite() && per_second > 0.0 && burst > 0)
            .then_some(Self { per_second, burst })
    }

    /// How long one token takes to come back, in nanoseconds, at least one.
    fn token_ns(self) -> u64 {
        // A cast of floats ends at the bounds.
        ((1e9 / self.per_second).round() as u64).max(1)
    }

    /// How long an empty bucket takes to be full.
    fn fill_ns(self) -> u64 {
        self.token_ns().saturating_mul(u64::from(self.burst))
    }
}

/// The bucket is empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refill {
    /// When it will have a token again.
    pub retry_after: Duration,
}

/// Buckets of one rate, at most so many.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    buckets_max: usize,
    /// From when times are counted, as nanoseconds in 64 bits: those of the first call.
    origin: Option<Instant>,
    buckets: HashMap<K, Bucket>,
    /// The same buckets by when they will be full, to drop those that are.
    by_full: BTreeSet<(u64, K)>,
    /// And by their last use, to drop the one that was used least recently.
    by_use: BTreeMap<u64, K>,
    uses: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When it will be full, in nanoseconds since the origin. That is all there is to know: what
    /// lacks now is what comes until then.
    full_at_ns: u64,
    /// The number of its last use among all uses.
    last_use: u64,
}

impl<K: Copy + Ord + Hash> Buckets<K> {
    /// An empty table, which takes memory as it is used.
    #[must_use]
    pub fn new(rate: Rate, buckets_max: usize) -> Self {
        Self {
            rate,
            buckets_max: buckets_max.max(1),
            origin: None,
            buckets: HashMap::new(),
            by_full: BTreeSet::new(),
            by_use: BTreeMap::new(),
            uses: 0,
        }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// When there is none. Nothing is taken then, so a further try costs nothing.
    pub fn take(&mut self, key: K, now: Instant) -> Result<(), Refill> {
        let now_ns = self.since_origin(now);
        self.drop_full(now_ns);
        let bucket = self.buckets.get(&key).copied();
        let full_at_ns = bucket.map_or(now_ns, |bucket| bucket.full_at_ns.max(now_ns));
        let full_at_ns = full_at_ns.saturating_add(self.rate.token_ns());
        let missing_ns = full_at_ns.saturating_sub(now_ns.saturating_add(self.rate.fill_ns()));
        if missing_ns > 0 {
            return Err(Refill { retry_after: Duration::from_nanos(missing_ns) });
        }
        match bucket {
            Some(bucket) => self.forget(key, bucket),
            None if self.buckets.len() >= self.buckets_max => self.drop_least_recent(),
            None => {}
        }
        self.uses += 1;
        self.keep(key, Bucket { full_at_ns, last_use: self.uses });
        Ok(())
    }

    /// Gives back the token that was taken last, because what it was for does not count. What has
    /// been dropped meanwhile is full already.
    pub fn give_back(&mut self, key: K) {
        if let Some(&bucket) = self.buckets.get(&key) {
            self.forget(key, bucket);
            let full_at_ns = bucket.full_at_ns.saturating_sub(self.rate.token_ns());
            self.keep(key, Bucket { full_at_ns, ..bucket });
        }
    }

    /// How many buckets are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    fn since_origin(&mut self, now: Instant) -> u64 {
        let origin = *self.origin.get_or_insert(now);
        u64::try_from(now.saturating_duration_since(origin).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Drops full buckets, two for each call at most: a table empties itself faster than it fills,
    /// and no call takes long.
    fn drop_full(&mut self, now_ns: u64) {
        for _ in 0..2 {
            match self.by_full.first() {
                Some(&(full_at_ns, key)) if full_at_ns <= now_ns => {
                    let bucket = self.buckets[&key];
                    self.forget(key, bucket);
                }
                Some(_) | None => return,
            }
        }
    }

    fn drop_least_recent(&mut self) {
        if let Some((_, &key)) = self.by_use.first_key_value() {
            let bucket = self.buckets[&key];
            self.forget(key, bucket);
        }
    }

    fn keep(&mut self, key: K, bucket: Bucket) {
        self.buckets.insert(key, bucket);
        self.by_full.insert((bucket.full_at_ns, key));
        self.by_use.insert(bucket.last_use, key);
    }

    fn forget(&mut self, key: K, bucket: Bucket) {
        self.buckets.remove(&key);
        self.by_full.remove(&(bucket.full_at_ns, key));
        self.by_use.remove(&bucket.last_use);
    }
}

#[cfg(test)]
mod tests;
