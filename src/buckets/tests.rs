use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;
use crate::limits;

fn rate(per_second: f64, burst: u32) -> Rate {
    Rate::new(per_second, burst).unwrap()
}

/// Tokens that can be taken at once.
fn drain(buckets: &mut Buckets<u32>, key: u32, now: Instant) -> usize {
    (0..1000).take_while(|_| buckets.take(key, now).is_ok()).count()
}

#[test]
fn a_bucket_holds_its_burst_and_fills_up_at_its_rate() {
    let mut buckets = Buckets::new(rate(2.0, 5), 16);
    let now = Instant::now();
    assert_eq!(drain(&mut buckets, 1, now), 5);
    assert_eq!(buckets.take(1, now), Err(Refill { retry_after: Duration::from_millis(500) }));
    assert_eq!(drain(&mut buckets, 2, now), 5, "others have their own");
    let soon = now + Duration::from_millis(499);
    assert_eq!(buckets.take(1, soon), Err(Refill { retry_after: Duration::from_millis(1) }));
    assert_eq!(drain(&mut buckets, 1, now + Duration::from_millis(500)), 1);
    assert_eq!(drain(&mut buckets, 1, now + Duration::from_secs(100)), 5, "and no more");
}

#[test]
fn a_refusal_takes_nothing() {
    let mut buckets = Buckets::new(rate(1.0, 1), 16);
    let now = Instant::now();
    buckets.take(1, now).unwrap();
    for _ in 0..100 {
        buckets.take(1, now).unwrap_err();
    }
    assert_eq!(buckets.take(1, now + Duration::from_secs(1)), Ok(()));
}

#[test]
fn what_is_given_back_can_be_taken_again() {
    let mut buckets = Buckets::new(rate(1.0, 2), 16);
    let now = Instant::now();
    assert_eq!(drain(&mut buckets, 1, now), 2);
    buckets.give_back(1);
    buckets.give_back(7);
    assert_eq!(drain(&mut buckets, 1, now), 1);
    assert_eq!(drain(&mut buckets, 7, now), 2, "nobody gets more than the burst");
}

#[test]
fn full_buckets_are_dropped() {
    let mut buckets = Buckets::new(rate(1.0, 10), 1000);
    let now = Instant::now();
    for key in 0..100 {
        buckets.take(key, now).unwrap();
    }
    assert_eq!(buckets.len(), 100);
    for call in 0..60 {
        buckets.take(1000, now + Duration::from_secs(2 + 2 * call)).unwrap();
    }
    assert_eq!(buckets.len(), 1);
}

#[test]
fn of_too_many_the_least_recently_used_is_forgotten() {
    let mut buckets = Buckets::new(rate(0.001, 2), 3);
    let now = Instant::now();
    for key in [1, 2, 3] {
        assert_eq!(drain(&mut buckets, key, now), 2);
    }
    // Nothing is dropped for a refusal.
    assert!(buckets.take(1, now).is_err());
    buckets.take(4, now).unwrap();
    assert_eq!(buckets.len(), 3);
    assert!(buckets.take(2, now).is_err());
    assert!(buckets.take(3, now).is_err());
    assert_eq!(drain(&mut buckets, 1, now), 2, "the first was forgotten");
}

#[test]
fn an_empty_bucket_outlives_full_ones_that_were_used_after_it() {
    let mut buckets = Buckets::new(rate(1.0, 10), 4);
    let now = Instant::now();
    assert_eq!(drain(&mut buckets, 1, now), 10);
    for key in 10..13 {
        buckets.take(key, now).unwrap();
    }
    let later = now + Duration::from_millis(1500);
    for key in 20..23 {
        buckets.take(key, later).unwrap();
    }
    assert_eq!(drain(&mut buckets, 1, later), 1);
}

#[test]
fn a_table_of_either_kind_stays_within_16_mib() {
    assert!(heap_bytes_max::<AddressPrefix>() <= 16 << 20);
    assert!(heap_bytes_max::<AccountKey>() <= 16 << 20);

    let mut buckets = Buckets::new(rate(0.001, 5), limits::BUCKETS_MAX);
    let now = Instant::now();
    for number in 0..u64::try_from(limits::BUCKETS_MAX).unwrap() + 1000 {
        buckets.take(AddressPrefix::V6(number), now).unwrap();
    }
    assert_eq!(buckets.len(), limits::BUCKETS_MAX);
    assert_eq!((buckets.by_full.len(), buckets.by_use.len()), (buckets.len(), buckets.len()));
    assert!(map_bytes::<AddressPrefix>(buckets.buckets.capacity()) < 8 << 20);
}

/// Bytes of a hash map: slots are a power of two, of which at most seven of eight are used, and have
/// a byte beside them.
fn map_bytes<K>(capacity: usize) -> usize {
    (capacity * 8).div_ceil(7).next_power_of_two() * (size_of::<(K, Bucket)>() + 1)
}

/// The bytes that a full table may have at worst.
fn heap_bytes_max<K>() -> usize {
    // A node of a B-tree has room for 11 entries, and is at least half full; of those above the
    // leaves there are a fifth as many and again, each with 12 edges.
    let leaf = 11 * size_of::<(u64, K)>() + 16;
    let leaves = limits::BUCKETS_MAX / 5;
    let tree = leaves * leaf + leaves / 4 * (leaf + 12 * size_of::<usize>());
    map_bytes::<K>(limits::BUCKETS_MAX) + 2 * tree
}

#[test]
fn an_address_is_an_ipv4_or_half_an_ipv6() {
    let prefix = |text: &str| AddressPrefix::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(prefix("192.0.2.1"), prefix("::ffff:192.0.2.1"));
    assert_ne!(prefix("192.0.2.1"), prefix("192.0.2.2"));
    assert_eq!(prefix("2001:db8:1:2::1"), prefix("2001:db8:1:2:ffff:ffff:ffff:ffff"));
    assert_ne!(prefix("2001:db8:1:2::1"), prefix("2001:db8:1:3::1"));
    assert_ne!(prefix("2001:db8::1"), prefix("3001:db8::1"));
    assert_eq!(prefix("::1"), AddressPrefix::V6(0));
    assert_eq!(
        AddressPrefix::from(IpAddr::V6(Ipv6Addr::new(1, 2, 3, 4, 5, 6, 7, 8))),
        AddressPrefix::V6(0x0001_0002_0003_0004)
    );
}

#[test]
fn account_keys_are_of_this_process() {
    let keys = AccountKeys::default();
    assert_eq!(keys.key("anna"), keys.key("anna"));
    assert_ne!(keys.key("anna"), keys.key("bert"));
    assert_ne!(keys.key("anna"), AccountKeys::default().key("anna"), "another seed");
}

#[test]
fn a_rate_lets_something_through_and_not_everything() {
    for (per_second, burst) in [(0.0, 1), (-1.0, 1), (f64::NAN, 1), (f64::INFINITY, 1), (1.0, 0)] {
        assert_eq!(Rate::new(per_second, burst), None, "{per_second} {burst}");
    }
    // What cannot be told apart from never or from always is no overflow.
    let now = Instant::now();
    for (per_second, burst) in [(f64::MIN_POSITIVE, u32::MAX), (f64::MAX, u32::MAX)] {
        let mut buckets = Buckets::new(rate(per_second, burst), 4);
        for seconds in [0, 1, 1_000_000_000] {
            let _ = buckets.take(1, now + Duration::from_secs(seconds));
        }
    }
}

/// The slow twin: counts tokens in floats, and never forgets anything.
struct Model {
    per_second: f64,
    burst: f64,
    tokens: HashMap<u32, (f64, Instant)>,
}

impl Model {
    fn tokens(&mut self, key: u32, now: Instant) -> &mut f64 {
        let (tokens, since) = self.tokens.entry(key).or_insert((self.burst, now));
        let passed = now.saturating_duration_since(*since).as_secs_f64();
        *tokens = (*tokens + passed * self.per_second).min(self.burst);
        *since = now;
        tokens
    }
}

proptest! {
    #[test]
    fn a_table_that_is_large_enough_counts_as_one_that_never_forgets(
        tenths in 1_u32..50,
        burst in 1_u32..6,
        steps in prop::collection::vec((0_u32..5, 0_u64..3000, any::<bool>()), 0..300),
    ) {
        let per_second = f64::from(tenths) / 10.0;
        let mut buckets = Buckets::new(rate(per_second, burst), 5);
        let mut model = Model { per_second, burst: f64::from(burst), tokens: HashMap::new() };
        let mut now = Instant::now();
        for (key, pause_ms, give_back) in steps {
            now += Duration::from_millis(pause_ms);
            let tokens = model.tokens(key, now);
            // Where the floats cannot tell, either answer will do.
            let certain = (*tokens - 1.0).abs() > 1e-6;
            let taken = buckets.take(key, now);
            if certain {
                prop_assert_eq!(taken.is_ok(), *tokens > 1.0, "{} tokens", tokens);
            }
            match taken {
                Ok(()) if give_back => buckets.give_back(key),
                Ok(()) => *tokens = (*tokens - 1.0).max(0.0),
                Err(refill) => {
                    let expected = (1.0 - *tokens) / per_second;
                    prop_assert!((refill.retry_after.as_secs_f64() - expected).abs() < 1e-5);
                }
            }
            prop_assert!(buckets.len() <= 5);
            prop_assert_eq!(buckets.by_full.len(), buckets.len());
            prop_assert_eq!(buckets.by_use.len(), buckets.len());
        }
    }

    #[test]
    fn a_table_that_is_too_small_only_ever_lets_more_through(
        steps in prop::collection::vec((0_u32..8, 0_u64..500), 0..300),
    ) {
        let (mut small, mut large) = (Buckets::new(rate(1.0, 3), 3), Buckets::new(rate(1.0, 3), 8));
        let mut now = Instant::now();
        for (key, pause_ms) in steps {
            now += Duration::from_millis(pause_ms);
            let (small_took, large_took) = (small.take(key, now), large.take(key, now));
            prop_assert!(small_took.is_ok() || large_took.is_err());
            // What only the small one let through would make it emptier than the large one is.
            if small_took.is_ok() && large_took.is_err() {
                small.give_back(key);
            }
            prop_assert!(small.len() <= 3);
        }
    }
}
