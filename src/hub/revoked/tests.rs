use proptest::prelude::*;

use super::*;

const NOW_S: u64 = 1_800_000_000;
const NOW_MS: u64 = NOW_S * 1000;
const KEPT: Duration = Duration::from_secs(3_600);
const LEEWAY: Duration = Duration::from_secs(60);

fn fingerprints() -> Fingerprints {
    Fingerprints::new(RandomState::new())
}

fn table(entries_max: usize) -> Table {
    Table::new(KEPT, entries_max, LEEWAY)
}

/// A login of the auth service, with a token that was issued just now.
fn claim(prints: &Fingerprints, subject: &str, session: &str, generation: u32, key: &str) -> Claim {
    Claim {
        credential: Credential {
            subject: prints.of(subject),
            session: Some(prints.of(session)),
            generation,
            key: prints.of_key(key),
        },
        issued_at_s: Some(NOW_S),
    }
}

#[test]
fn a_revocation_is_about_nobody_else() {
    let prints = fingerprints();
    let anna = claim(&prints, "anna", "phone", 3, "k1");
    let laptop = claim(&prints, "anna", "laptop", 3, "k1");
    let later = claim(&prints, "anna", "new", 4, "k1");
    let bert = claim(&prints, "bert", "phone of bert", 3, "k2");
    // A subject that is called like a session.
    let phone = claim(&prints, "phone", "x", 0, "k2");
    let cases = [
        (
            Revoked::Session(prints.of("phone")),
            [true, false, false, false, false],
            Refused::Revoked,
        ),
        (
            Revoked::User { subject: prints.of("anna"), generation: 4 },
            [true, true, false, false, false],
            Refused::Revoked,
        ),
        (Revoked::Ban(prints.of("anna")), [true, true, true, false, false], Refused::Revoked),
        (Revoked::Key(prints.of_key("k1")), [true, true, true, false, false], Refused::Stale),
    ];
    for (revoked, hits, refused) in cases {
        let mut table = table(10);
        table.add(revoked, NOW_MS, NOW_S);
        let mut notices = Notices::default();
        notices.add(revoked, NOW_MS);
        for (claim, hit) in [anna, laptop, later, bert, phone].iter().zip(hits) {
            assert_eq!(table.check(claim, NOW_S), if hit { Err(refused) } else { Ok(()) });
            let about = notices.about(&claim.credential);
            assert_eq!(about, hit.then_some((refused, NOW_MS)), "{revoked:?}");
        }
    }
}

#[test]
fn a_token_without_session_and_generation_is_refused_by_ban_and_key_only() {
    let prints = fingerprints();
    let outside = Claim {
        credential: Credential {
            subject: prints.of("anna"),
            session: None,
            generation: u32::MAX,
            key: prints.of_key("theirs"),
        },
        issued_at_s: None,
    };
    let mut table = table(1);
    for generation in [1, u32::MAX] {
        table.add(Revoked::User { subject: prints.of("anna"), generation }, NOW_MS, NOW_S);
    }
    // Nor is it by what was forgotten, or by its age.
    assert_eq!(table.check(&outside, NOW_S + 10 * KEPT.as_secs()), Ok(()));
    table.add(Revoked::Key(prints.of_key("theirs")), NOW_MS, NOW_S);
    assert_eq!(table.check(&outside, NOW_S), Err(Refused::Stale));
    table.add(Revoked::Ban(prints.of("anna")), NOW_MS, NOW_S);
    assert_eq!(table.check(&outside, NOW_S), Err(Refused::Revoked));
    table.lift(prints.of("anna"));
    assert_eq!(table.check(&outside, NOW_S), Err(Refused::Stale));
}

#[test]
fn what_a_full_table_forgets_refuses_all_that_was_issued_before() {
    let prints = fingerprints();
    let mut table = table(1);
    table.add(Revoked::Session(prints.of("a")), NOW_MS, NOW_S);
    table.add(Revoked::Session(prints.of("b")), NOW_MS + 1, NOW_S);
    assert_eq!(table.len(), 1);
    // The clocks of two services may differ.
    let until = NOW_S + LEEWAY.as_secs();
    let issued = |session, issued_at_s| {
        let issued_at_s = Some(issued_at_s);
        Claim { issued_at_s, ..claim(&prints, "anna", session, 0, "k") }
    };
    assert_eq!(table.check(&issued("a", NOW_S - 5), NOW_S), Err(Refused::Stale));
    assert_eq!(table.check(&issued("other", until), NOW_S), Err(Refused::Stale));
    assert_eq!(table.check(&issued("other", until + 1), NOW_S), Ok(()));
    assert_eq!(table.check(&issued("b", until + 1), NOW_S), Err(Refused::Revoked));
}

#[test]
fn a_time_far_ahead_in_the_feed_refuses_nobody_for_longer_than_the_leeway() {
    let prints = fingerprints();
    let mut table = table(1);
    for session in ["one", "two"] {
        let in_a_year_ms = NOW_MS + 365 * 24 * 3_600_000;
        table.add(Revoked::Session(prints.of(session)), in_a_year_ms, NOW_S);
    }
    let mut anna = claim(&prints, "anna", "phone", 1, "k1");
    assert_eq!(table.check(&anna, NOW_S), Err(Refused::Stale));
    let later_s = NOW_S + LEEWAY.as_secs() + 1;
    anna.issued_at_s = Some(later_s);
    assert_eq!(table.check(&anna, later_s), Ok(()));
}

#[test]
fn a_user_that_is_revoked_again_is_not_forgotten_with_the_first_time() {
    let prints = fingerprints();
    let mut table = table(1);
    let subject = prints.of("anna");
    table.add(Revoked::User { subject, generation: 1 }, NOW_MS, NOW_S);
    table.add(Revoked::User { subject, generation: 2 }, NOW_MS + 1, NOW_S);
    let claim = claim(&prints, "anna", "x", 1, "k");
    assert_eq!(table.check(&claim, NOW_S), Err(Refused::Revoked));
}

#[test]
fn a_credential_is_small() {
    assert_eq!(size_of::<Option<Credential>>(), 24);
}

/// What a table must know, kept without any bound.
#[derive(Default)]
struct Oracle(Vec<(Revoked, u64)>);

impl Oracle {
    /// Whether what this login stands on was revoked after its token was issued.
    fn refuses(&self, claim: &Claim) -> bool {
        let Credential { subject, session, generation, key } = claim.credential;
        let later = self.0.iter().filter(|(_, at_s)| claim.issued_at_s <= Some(*at_s));
        later.into_iter().any(|(revoked, _)| match *revoked {
            Revoked::Session(it) => session == Some(it),
            Revoked::User { subject: it, generation: first_good } => {
                it == subject && generation < first_good
            }
            Revoked::Key(it) => it == key,
            Revoked::Ban(it) => it == subject,
        })
    }
}

proptest! {
    /// Whatever is forgotten, and when: no token that was issued before it was revoked, and that
    /// has not run out, is ever taken.
    #[test]
    fn a_table_never_takes_what_was_revoked(
        entries_max in 1_usize..6,
        steps in prop::collection::vec((0_u8..3, 0_u8..4, 0_u32..4, 0_u64..900, 0_u64..3_600), 1..60),
    ) {
        let prints = fingerprints();
        let mut table = table(entries_max);
        let mut oracle = Oracle::default();
        let mut now_s = NOW_S;
        for (what, name, generation, passes_s, age_s) in steps {
            now_s += passes_s;
            let name = name.to_string();
            let revoked = match what {
                0 => Revoked::Session(prints.of(&name)),
                1 => Revoked::User { subject: prints.of(&name), generation },
                _ => Revoked::Key(prints.of_key(&name)),
            };
            table.add(revoked, now_s * 1000, now_s);
            oracle.0.push((revoked, now_s));
            prop_assert!(table.len() <= entries_max);
            for name in 0..4_u8 {
                let name = name.to_string();
                for generation in 0..4 {
                    // Tokens live for as long as entries are kept.
                    let issued_at_s = Some(now_s - age_s);
                    let claim = Claim {
                        issued_at_s,
                        ..claim(&prints, &name, &name, generation, &name)
                    };
                    if oracle.refuses(&claim) {
                        prop_assert!(table.check(&claim, now_s).is_err());
                    }
                }
            }
        }
    }

    /// With room for all, and nothing too old, it refuses nothing else.
    #[test]
    fn a_table_with_room_refuses_nothing_else(
        steps in prop::collection::vec((0_u8..3, 0_u8..4, 0_u32..4), 0..30),
    ) {
        let prints = fingerprints();
        let mut table = table(1_000);
        let mut oracle = Oracle::default();
        for (what, name, generation) in steps {
            let name = name.to_string();
            let revoked = match what {
                0 => Revoked::Session(prints.of(&name)),
                1 => Revoked::User { subject: prints.of(&name), generation },
                _ => Revoked::Ban(prints.of(&name)),
            };
            table.add(revoked, NOW_MS, NOW_S);
            oracle.0.push((revoked, NOW_S));
        }
        for (name, generation) in (0..4).flat_map(|name: u8| (0..4).map(move |it| (name, it))) {
            let name = name.to_string();
            let claim = claim(&prints, &name, &name, generation, "k");
            prop_assert_eq!(table.check(&claim, NOW_S).is_err(), oracle.refuses(&claim));
        }
    }
}
