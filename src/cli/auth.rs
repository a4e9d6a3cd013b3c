//! `hubbub auth`: the auth service as a process of its own; and what its operator does.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use clap::{Args, Subcommand};
use hubbub::{
    auth::store::keys::{KeyState, KeyStore},
    clock,
    config::{Config, EngineFlag, Flags, Process},
    limits::KEY_SIGNS_AFTER,
    server::auth::{self, AuthServer},
};
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::{
    CliError,
    admin::{AdminArgs, DataArgs},
    calibrate::{self, CalibrateArgs},
    login::command,
    process::{self, internal_lines, is_secure, print, url_from_here},
    program::program,
};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AuthArgs {
    #[command(flatten)]
    flags: AuthFlags,
    #[command(subcommand)]
    command: Option<AuthCommand>,
}

/// The flags of the process.
#[derive(Debug, Args)]
struct AuthFlags {
    /// The configuration file [default: ./hubbub.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the public port: accounts, tokens and keys; port 0 takes a free one [default:
    /// 127.0.0.1:7880]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Address of the internal port: health, metrics and administration [default: 127.0.0.1:7881]
    #[arg(long, value_name = "ADDR")]
    internal_listen: Option<SocketAddr>,
    /// Where accounts and keys are kept [default: ./hubbub-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the nodes of a cluster share their accounts: JetStream on these servers of NATS, as
    /// nats://a,b,c [default: sqlite, in the data directory]
    #[arg(long, value_name = "sqlite|nats://A,B,C")]
    engine: Option<EngineFlag>,
    /// One server of NATS is enough: for trying it out [default: false]
    #[arg(long)]
    engine_single: bool,
    /// The certificate of the public port with those that sign it, as PEM: the port then speaks
    /// HTTPS only; needs --tls-key [default: none]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate, as PEM [default: none]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum AuthCommand {
    /// Look at the keys that sign tokens, and change them
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Measure what a password's hash may cost on this machine
    Calibrate(CalibrateArgs),
    /// Make an invite code, which is good for making accounts
    Invite {
        /// Accounts that it is good for
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        /// How long it is good, as 12h or 7d
        #[arg(long, value_name = "DURATION", default_value = "7d")]
        expires: humantime::Duration,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// They work on the data directory itself, whether a server runs on it or not. One that does sees
/// what was done within a second.
#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// List the keys, the newest first
    List(DataArgs),
    /// Have a new key sign; the old one stays good for as long as its tokens
    Rotate(DataArgs),
    /// Take a key back: all tokens that it signed are refused at once
    Revoke {
        /// The key's id, as `list` has it
        kid: String,
        #[command(flatten)]
        data: DataArgs,
    },
}

pub(crate) fn run(args: AuthArgs) -> Result<(), CliError> {
    match args.command {
        None => process::run(&args.flags.into(), auth::start, greeting),
        Some(AuthCommand::Keys(command)) => keys(command),
        Some(AuthCommand::Calibrate(args)) => calibrate::run(&args),
        Some(AuthCommand::Invite { uses, expires, admin }) => {
            super::block_on(invite(uses, expires, admin))
        }
    }
}

impl From<AuthFlags> for Flags {
    fn from(flags: AuthFlags) -> Self {
        Self {
            config: flags.config,
            listen: flags.listen,
            internal_listen: flags.internal_listen,
            data_dir: flags.data_dir,
            engine: flags.engine,
            engine_single: flags.engine_single,
            tls_cert: flags.tls_cert,
            tls_key: flags.tls_key,
            process: Process::Auth,
            ..Self::default()
        }
    }
}

/// What a person sees first. Scripts wait for the first line.
fn greeting(config: &Config, server: &AuthServer) -> String {
    let public = server.public_address();
    let secure = if is_secure(config) { "s" } else { "" };
    let (url, hint) = url_from_here(config, public);
    format!(
        "listening on http{secure}://{public}\n\
         \n\
         hubbub auth {version}\n\
         \x20 accounts    http{secure}://{public}/v1/accounts\n\
         \x20 tokens      http{secure}://{public}/v1/token\n\
         {internally}\
         \n\
         Try, in another terminal{hint}:\n\
         \x20 {program} hub --data-dir hub-data --jwks-url {url}/.well-known/jwks.json\n\
         \x20 {account}\n\
         \n\
         Ctrl-C stops it.\n",
        version = env!("CARGO_PKG_VERSION"),
        internally = internal_lines(config, server.internal_address()),
        program = program(),
        account = command(&url, "account add ada"),
    )
}

fn keys(command: KeysCommand) -> Result<(), CliError> {
    let now_s = clock::unix_s();
    let open = |data: DataArgs| Ok::<_, CliError>(KeyStore::open(&data.data_dir()?, now_s)?);
    match command {
        KeysCommand::List(data) => {
            let mut page = String::new();
            for key in open(data)?.list(now_s)? {
                let state = match key.state {
                    KeyState::Next => format!("signs from {}", time(key.signs_from_s)),
                    KeyState::Signing => "signs".to_owned(),
                    KeyState::Former => "signed, good for as long as its tokens".to_owned(),
                    KeyState::Revoked(at_s) => format!("revoked {}", time(at_s)),
                };
                let made = time(key.created_at_s);
                page.push_str(&format!("{}  made {made}  {state}\n", key.key_id));
            }
            print(&page)
        }
        KeysCommand::Rotate(data) => {
            let key_id = open(data)?.rotate(KEY_SIGNS_AFTER, now_s)?;
            let from = time(now_s + KEY_SIGNS_AFTER.as_secs());
            print(&format!("{key_id} signs from {from}\n"))
        }
        KeysCommand::Revoke { kid, data } => match open(data)?.revoke(&kid, now_s)? {
            Some(successor) => print(&format!("{kid} is revoked; {successor} signs\n")),
            None => print(&format!("{kid} is revoked\n")),
        },
    }
}

fn time(unix_s: u64) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_s))
}

/// An invite, as far as it is shown.
#[derive(Deserialize)]
struct Invited {
    code: String,
}

async fn invite(uses: u32, expires: humantime::Duration, admin: AdminArgs) -> Result<(), CliError> {
    let wish = json!({ "uses": uses, "expires_in": expires.as_secs() });
    let invited: Invited = admin.admin()?.ask(Method::POST, "/v1/admin/invites", &wish).await?;
    print(&format!("{}\n", invited.code))
}
