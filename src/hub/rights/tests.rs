use super::*;
use crate::log::settings::Quota;

const OWNER: UserId = UserId(1);
const OTHER_OWNER: UserId = UserId(2);
const MODERATOR: UserId = UserId(3);
const OTHER_MODERATOR: UserId = UserId(4);
const MEMBER: UserId = UserId(5);
const OTHER_MEMBER: UserId = UserId(6);
const OUTSIDER: UserId = UserId(7);
const OTHER_OUTSIDER: UserId = UserId(8);

fn rights(settings: &Settings) -> Rights {
    let mut record = ChannelRecord {
        id: 7,
        name: String::new(),
        epoch: 1,
        created_at_ms: 1,
        created_by: 1,
        topic: String::new(),
        visibility: Visibility::Public,
        posting: Posting::Everyone,
        archived: false,
        quota: Default::default(),
        usage: Usage::default(),
        member_count: 0,
    };
    record.set(settings);
    let roles = [
        (OWNER, Role::Owner),
        (OTHER_OWNER, Role::Owner),
        (MODERATOR, Role::Moderator),
        (OTHER_MODERATOR, Role::Moderator),
        (MEMBER, Role::Member),
        (OTHER_MEMBER, Role::Member),
    ];
    Rights::new(record, roles.into_iter().collect())
}

/// What comes of a change: `+` if it is written, `=` if it is so already, or a code.
fn outcome(rights: &Rights, by: UserId, change: &Change) -> &'static str {
    match rights.judge(by, change) {
        Ok(Verdict { is_new: true, .. }) => "+",
        Ok(Verdict { is_new: false, .. }) => "=",
        Err(code) => code.name(),
    }
}

#[test]
fn each_role_may_do_what_the_table_says() {
    use Role::{Member, Moderator, Owner};
    const NO: &str = "forbidden";
    let set = Change::SetMember;
    let topic = Update { topic: Some("new".to_owned()), ..Update::default() };
    // By an owner, a moderator, a member, an outsider.
    let table = [
        (Change::Join, ["=", "=", "=", "+"]),
        (Change::Leave, ["+", "+", "+", "="]),
        (set(OTHER_OUTSIDER, Member), ["+", "+", NO, NO]),
        (set(OTHER_OUTSIDER, Moderator), ["+", NO, NO, NO]),
        (set(OTHER_OUTSIDER, Owner), ["+", NO, NO, NO]),
        (set(OTHER_MEMBER, Member), ["=", "=", NO, NO]),
        (set(OTHER_MEMBER, Moderator), ["+", NO, NO, NO]),
        (set(OTHER_MODERATOR, Member), ["+", NO, NO, NO]),
        (set(OTHER_MODERATOR, Owner), ["+", NO, NO, NO]),
        (set(OTHER_OWNER, Member), ["+", NO, NO, NO]),
        (Change::RemoveMember(OTHER_MEMBER), ["+", "+", NO, NO]),
        (Change::RemoveMember(OTHER_MODERATOR), ["+", NO, NO, NO]),
        (Change::RemoveMember(OTHER_OWNER), ["+", NO, NO, NO]),
        (Change::RemoveMember(OTHER_OUTSIDER), ["not_a_member", "not_a_member", NO, NO]),
        (Change::Update(topic), ["+", NO, NO, NO]),
        (Change::Update(Update::default()), ["=", NO, NO, NO]),
        (Change::Delete, ["+", NO, NO, NO]),
    ];
    let open = rights(&Settings::open("lobby"));
    let private = Settings { visibility: Visibility::Private, ..Settings::open("lobby") };
    let private = rights(&private);
    for (change, expected) in table {
        for (by, expected) in [OWNER, MODERATOR, MEMBER, OUTSIDER].into_iter().zip(expected) {
            assert_eq!(outcome(&open, by, &change), expected, "{change:?} by {by:?}");
            let expected = if by == OUTSIDER { "unknown_channel" } else { expected };
            assert_eq!(outcome(&private, by, &change), expected, "{change:?} by {by:?}");
        }
    }
}

#[test]
fn nobody_gives_themselves_a_role() {
    let rights = rights(&Settings::open("lobby"));
    for by in [MODERATOR, MEMBER, OUTSIDER] {
        for role in Role::ALL {
            let change = Change::SetMember(by, role);
            assert_eq!(outcome(&rights, by, &change), "forbidden", "{change:?}");
        }
    }
}

#[test]
fn the_last_owner_stays_one() {
    let mut rights = rights(&Settings::open("lobby"));
    rights.apply(Content::Member(OTHER_OWNER, None));
    for change in [
        Change::Leave,
        Change::RemoveMember(OWNER),
        Change::SetMember(OWNER, Role::Member),
        Change::SetMember(OWNER, Role::Moderator),
    ] {
        assert_eq!(outcome(&rights, OWNER, &change), "last_owner", "{change:?}");
    }
    assert_eq!(outcome(&rights, OWNER, &Change::SetMember(OWNER, Role::Owner)), "=");
    assert_eq!(outcome(&rights, OWNER, &Change::SetMember(MEMBER, Role::Owner)), "+");
    rights.apply(Content::Member(MEMBER, Some(Role::Owner)));
    assert_eq!(outcome(&rights, OWNER, &Change::Leave), "+");
}

#[test]
fn who_may_publish_is_as_the_settings_say() {
    let usage = Usage { messages: 1, bytes: 1 };
    let may = |settings: &Settings| {
        [OWNER, MODERATOR, MEMBER, OUTSIDER].map(|user| {
            let outcome = rights(settings).may_publish(Author::User(user), usage);
            outcome.map_or_else(ErrorCode::name, |()| "+")
        })
    };
    let open = Settings::open("lobby");
    let posting = |posting| Settings { posting, ..open.clone() };
    assert_eq!(may(&open), ["+"; 4]);
    assert_eq!(may(&posting(Posting::Members)), ["+", "+", "+", "forbidden"]);
    assert_eq!(may(&posting(Posting::Moderators)), ["+", "+", "forbidden", "forbidden"]);
    let private = Settings { visibility: Visibility::Private, ..open.clone() };
    assert_eq!(may(&private), ["+", "+", "+", "unknown_channel"]);
    let quiet = Settings { posting: Posting::Moderators, ..private };
    assert_eq!(may(&quiet), ["+", "+", "forbidden", "unknown_channel"]);
    let archived = Settings { archived: true, ..open };
    assert_eq!(may(&archived), ["channel_archived"; 4]);
    let webhook = rights(&quiet).may_publish(Author::Webhook(OUTSIDER), usage);
    assert_eq!(webhook, Ok(()), "by the right of who made it");
    let webhook = rights(&archived).may_publish(Author::Webhook(OWNER), usage);
    assert_eq!(webhook, Err(ErrorCode::ChannelArchived));
}

#[test]
fn a_quota_is_neither_given_nor_taken_later() {
    let quota = |max: u64| Quota { messages_max: max.try_into().ok(), bytes_max: None };
    let open = Settings::open("lobby");
    let bounded = Settings { quota: quota(5), ..open.clone() };
    let to = |max| Change::Update(Update { quota: Some(quota(max)), ..Update::default() });
    assert_eq!(outcome(&rights(&open), OWNER, &to(5)), "bad_request");
    assert_eq!(outcome(&rights(&bounded), OWNER, &to(0)), "bad_request");
    assert_eq!(outcome(&rights(&bounded), OWNER, &to(3)), "+");
}

#[test]
fn a_channel_has_no_more_members_than_it_may() {
    let mut rights = rights(&Settings::open("lobby"));
    let count = u32::try_from(MEMBERS_MAX - rights.members.len()).unwrap();
    for user in 0..count {
        rights.apply(Content::Member(UserId(1_000 + user), Some(Role::Member)));
    }
    assert_eq!(outcome(&rights, OUTSIDER, &Change::Join), "too_many");
    assert_eq!(outcome(&rights, MEMBER, &Change::Join), "=");
    assert_eq!(rights.record().member_count as usize, MEMBERS_MAX);
    rights.apply(Content::Member(MEMBER, None));
    assert_eq!(outcome(&rights, OUTSIDER, &Change::Join), "+");
}
