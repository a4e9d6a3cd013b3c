//! `hubbub channel …`: makes, finds and changes channels, and says who is in them.

use std::{
    io::{self, IsTerminal as _, Write as _},
    num::NonZeroU64,
    str::FromStr as _,
};

use bytesize::ByteSize;
use clap::{Args, Subcommand, builder::PossibleValuesParser, builder::TypedValueParser};
use hubbub::{
    client::{Client, ClientError, NewChannel},
    log::{
        place::UserId,
        settings::{Posting, Quota, Role, Visibility},
    },
    wire::{
        channels::{ChannelFilter, Update},
        code::ErrorCode,
    },
};

use super::{
    CliError,
    login::{LoginArgs, connect},
    process::print,
    send::no_channel,
    terminal::escape,
};

mod words;

#[derive(Debug, Subcommand)]
pub(crate) enum ChannelCommand {
    /// Make a channel; unless you say otherwise, everybody may read and write it
    Create {
        #[command(flatten)]
        one: OneChannel,
        #[command(flatten)]
        settings: SettingsArgs,
        /// Only members may know of it
        #[arg(long)]
        private: bool,
    },
    /// List the public channels, by name
    List {
        /// Those that you are a member of, private ones too
        #[arg(long, conflicts_with = "prefix")]
        mine: bool,
        /// Those whose names begin so
        #[arg(long, value_name = "TEXT")]
        prefix: Option<String>,
        /// Print one JSON object per channel
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Say what a channel is
    Show(OneChannel),
    /// Change a channel; owners only
    Update {
        #[command(flatten)]
        one: OneChannel,
        #[command(flatten)]
        changes: UpdateArgs,
    },
    /// Take no messages any more; all can be read as before
    Archive(OneChannel),
    /// Take messages again
    Unarchive(OneChannel),
    /// Remove a channel and all that is in it, for good
    Delete {
        #[command(flatten)]
        one: OneChannel,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Become a member of a public channel
    Join(OneChannel),
    /// Be no member any more
    Leave(OneChannel),
    /// List the members of a channel
    Members(OneChannel),
    /// Make a user a member, or give a member another role
    Invite {
        #[command(flatten)]
        one: OneMember,
        /// What the user may do
        #[arg(long, default_value = "member", value_parser = role_parser())]
        role: Role,
    },
    /// End somebody's membership
    Remove(OneMember),
}

#[derive(Debug, Args)]
pub(crate) struct OneChannel {
    /// The channel
    channel: String,
    #[command(flatten)]
    login: LoginArgs,
}

#[derive(Debug, Args)]
pub(crate) struct OneMember {
    /// The channel
    channel: String,
    /// The user's name; #7 is the user of that number
    user: String,
    #[command(flatten)]
    login: LoginArgs,
}

/// What of a channel's settings is named, to make it or to change it.
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// What it is about
    #[arg(long, value_name = "TEXT")]
    topic: Option<String>,
    /// Who may write
    #[arg(long, value_parser = posting_parser())]
    posting: Option<Posting>,
    /// Messages that it accepts in its whole life
    #[arg(long, value_name = "N")]
    quota_messages: Option<NonZeroU64>,
    /// Bytes of messages that it accepts in its whole life, as 10MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    quota_bytes: Option<NonZeroU64>,
}

/// What is to be otherwise.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Its new name
    #[arg(long = "name", value_name = "NAME")]
    new_name: Option<String>,
    #[command(flatten)]
    settings: SettingsArgs,
    /// Only members may know of it
    #[arg(long, conflicts_with = "public")]
    private: bool,
    /// Every user may find, read and join it
    #[arg(long)]
    public: bool,
}

fn posting_parser() -> impl TypedValueParser<Value = Posting> {
    PossibleValuesParser::new(["everyone", "members", "moderators"]).map(|name| {
        match name.as_str() {
            "members" => Posting::Members,
            "moderators" => Posting::Moderators,
            _ => Posting::Everyone,
        }
    })
}

fn role_parser() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.map(Role::name)).try_map(|name| Role::from_str(&name))
}

fn size(text: &str) -> Result<NonZeroU64, String> {
    let size: ByteSize = text.parse()?;
    NonZeroU64::new(size.as_u64()).ok_or_else(|| "must be one byte at least".to_owned())
}

pub(crate) async fn run(command: ChannelCommand) -> Result<(), CliError> {
    match command {
        ChannelCommand::Create { one, settings, private } => create(&one, settings, private).await,
        ChannelCommand::List { mine, prefix, json, login } => {
            with(&login, async |client| list(client, mine, prefix, json).await).await
        }
        ChannelCommand::Show(one) => {
            with_channel(&one, async |client, channel| {
                print(&words::shown(&client.channel(channel).await?))
            })
            .await
        }
        ChannelCommand::Update { one, changes } => update(&one, changes).await,
        ChannelCommand::Archive(one) => {
            archive(&one, true, "is archived, and takes no messages").await
        }
        ChannelCommand::Unarchive(one) => archive(&one, false, "takes messages again").await,
        ChannelCommand::Delete { one, yes } => delete(&one, yes).await,
        ChannelCommand::Join(one) => {
            with_channel(&one, async |client, channel| {
                let member = client.join(channel).await?;
                let role = member.role.map_or("no member", Role::name);
                print(&format!("you are in {}: {role}\n", escape(channel)))
            })
            .await
        }
        ChannelCommand::Leave(one) => {
            with_channel(&one, async |client, channel| {
                let was_member = client.leave(channel).await?.sequence.0 > 0;
                let outcome = if was_member { "you have left" } else { "you were no member of" };
                print(&format!("{outcome} {}\n", escape(channel)))
            })
            .await
        }
        ChannelCommand::Members(one) => with_channel(&one, members).await,
        ChannelCommand::Invite { one, role } => {
            let OneMember { channel, user, login } = one;
            with_channel(&OneChannel { channel, login }, async |client, channel| {
                let number = find(client, &user).await?;
                client.set_member(channel, number, role).await?;
                print(&format!("{} is in {}: {role}\n", escape(&user), escape(channel)))
            })
            .await
        }
        ChannelCommand::Remove(OneMember { channel, user, login }) => {
            with_channel(&OneChannel { channel, login }, async |client, channel| {
                let number = find(client, &user).await?;
                client.remove_member(channel, number).await?;
                print(&format!("{} is no member of {} any more\n", escape(&user), escape(channel)))
            })
            .await
        }
    }
}

/// Does something with a connection, and ends it.
async fn with(
    login: &LoginArgs,
    what: impl AsyncFnOnce(&Client) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let client = connect(login).await?;
    let done = what(&client).await;
    client.close().await;
    done
}

/// The same with a channel, which may not be there.
async fn with_channel(
    OneChannel { channel, login }: &OneChannel,
    what: impl AsyncFnOnce(&Client, &str) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let done = with(login, async |client| what(client, channel).await).await;
    done.map_err(|error| no_channel(error, channel, login))
}

async fn create(
    OneChannel { channel, login }: &OneChannel,
    settings: SettingsArgs,
    private: bool,
) -> Result<(), CliError> {
    let SettingsArgs { topic, posting, quota_messages, quota_bytes } = settings;
    let new = NewChannel {
        topic: topic.unwrap_or_default(),
        visibility: if private { Visibility::Private } else { Visibility::Public },
        posting: posting.unwrap_or_default(),
        quota: Quota { messages_max: quota_messages, bytes_max: quota_bytes },
    };
    with(login, async |client| {
        let made = client.create_channel_with(channel, new).await;
        made.map_err(|error| not_created(error, channel))?;
        print(&format!("channel {} is made\n", escape(channel)))
    })
    .await
}

async fn list(
    client: &Client,
    mine: bool,
    prefix: Option<String>,
    json: bool,
) -> Result<(), CliError> {
    let filter = ChannelFilter { prefix: prefix.unwrap_or_default(), archived: None };
    let mut after = None;
    loop {
        let page = match mine {
            true => client.my_channels(after).await?,
            false => client.channels(filter.clone(), after).await?,
        };
        print(&match json {
            true => page.items.iter().map(|it| format!("{}\n", words::as_json(it))).collect(),
            false => words::table(page.items.iter().map(words::row).collect()),
        })?;
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn update(one: &OneChannel, changes: UpdateArgs) -> Result<(), CliError> {
    let UpdateArgs { new_name: name, settings, private, public } = changes;
    let SettingsArgs { topic, posting, quota_messages, quota_bytes } = settings;
    let visibility = match (private, public) {
        (true, _) => Some(Visibility::Private),
        (_, true) => Some(Visibility::Public),
        _ => None,
    };
    let is_nothing = name.is_none() && topic.is_none() && visibility.is_none();
    if is_nothing && posting.is_none() && quota_messages.is_none() && quota_bytes.is_none() {
        return Err(CliError::NothingToChange);
    }
    let updated = with_channel(one, async |client, channel| {
        let quota = if quota_messages.is_some() || quota_bytes.is_some() {
            // All of a quota is set at once, and what is not named stays.
            let before = client.channel(channel).await?.settings.quota;
            Some(Quota {
                messages_max: quota_messages.or(before.messages_max),
                bytes_max: quota_bytes.or(before.bytes_max),
            })
        } else {
            None
        };
        let new_name = name.clone();
        let update = Update { name: new_name, topic, visibility, posting, archived: None, quota };
        print(&words::shown(&client.update_channel(channel, update).await?))
    });
    updated.await.map_err(|error| match (error, &name) {
        (CliError::Client(error), Some(name)) => not_created(error, name),
        (error, _) => error,
    })
}

async fn archive(one: &OneChannel, archived: bool, outcome: &str) -> Result<(), CliError> {
    with_channel(one, async |client, channel| {
        let update = Update { archived: Some(archived), ..Update::default() };
        client.update_channel(channel, update).await?;
        print(&format!("channel {} {outcome}\n", escape(channel)))
    })
    .await
}

async fn delete(one: &OneChannel, yes: bool) -> Result<(), CliError> {
    // Before there is a connection, which nobody would look after meanwhile.
    if !yes && !confirmed(&one.channel)? {
        return Err(CliError::NotConfirmed);
    }
    with_channel(one, async |client, channel| {
        client.delete_channel(channel).await?;
        print(&format!("channel {} is removed\n", escape(channel)))
    })
    .await
}

/// Has a person on a terminal type the channel's name.
fn confirmed(channel: &str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    let shown = escape(channel);
    eprint!("This removes {shown} and all messages in it, for good. Type its name to go on: ");
    io::stderr().flush().map_err(CliError::Output)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(CliError::Input)?;
    Ok(answer.trim() == channel)
}

async fn members(client: &Client, channel: &str) -> Result<(), CliError> {
    let mut after = None;
    loop {
        let page = client.members(channel, after).await?;
        print(&words::table(page.items.iter().map(words::member_row).collect()))?;
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Who is meant by a name, or by a number behind a `#`.
async fn find(client: &Client, user: &str) -> Result<UserId, CliError> {
    if let Some(number) = user.strip_prefix('#') {
        let number = number.parse().map_err(|_| CliError::UserNumber(user.to_owned()))?;
        return Ok(UserId(number));
    }
    let found = client.find_users(user).await?;
    match found[..] {
        [one] => Ok(one),
        [] => Err(CliError::NoUser(user.to_owned())),
        _ => {
            let numbers: Vec<_> = found.iter().map(|user| format!("#{}", user.0)).collect();
            let (count, numbers) = (found.len(), numbers.join(", "));
            Err(CliError::ManyUsers { count, name: user.to_owned(), numbers })
        }
    }
}

/// Says which names a channel can have.
pub(super) fn not_created(error: ClientError, channel: &str) -> CliError {
    match error {
        ClientError::Refused(refusal) if refusal.is(ErrorCode::InvalidChannelName) => {
            CliError::ChannelName(channel.to_owned())
        }
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{ChannelCommand, size};

    #[derive(Debug, clap::Parser)]
    struct Arguments {
        #[command(subcommand)]
        command: ChannelCommand,
    }

    #[test]
    fn a_size_has_a_unit_or_none_and_is_not_nothing() {
        assert_eq!(size("10MiB").unwrap().get(), 10 * 1024 * 1024);
        assert_eq!(size("512").unwrap().get(), 512);
        assert!(size("0").is_err() && size("much").is_err());
    }

    #[test]
    fn what_contradicts_itself_is_no_command() {
        let parse = |words: &[&str]| Arguments::try_parse_from([&["channel"], words].concat());
        assert!(parse(&["update", "ops", "--as", "ada", "--private", "--public"]).is_err());
        parse(&["update", "ops", "--as", "ada", "--topic", ""]).unwrap();
        parse(&["update", "ops", "--as", "ada", "--public"]).unwrap();
        parse(&["update", "ops", "--as", "ada", "--quota-bytes", "1GiB"]).unwrap();
        assert!(parse(&["invite", "ops", "bob", "--as", "ada", "--role", "king"]).is_err());
        assert!(parse(&["list", "--as", "ada", "--mine", "--prefix", "x"]).is_err());
    }
}
