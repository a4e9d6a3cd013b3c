//! Who takes part: how each is started, how it is spoken to, and where its files are.

use std::{
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustix::thread::CpuSet;
use tokio::process::Command;

use super::{dialect::Dialect, floor::Mode};
use crate::server::{free_address, program::Program, tokens};

/// The peers' sources, put where their packages are.
const SOURCES: [(&str, &str); 4] = [
    ("uws.mjs", include_str!("../../peers/uws.mjs")),
    ("ws.mjs", include_str!("../../peers/ws.mjs")),
    ("nats.conf", include_str!("../../peers/nats.conf")),
    ("reference.py", include_str!("../../peers/reference.py")),
];
/// The first setting of a variant may name another program.
const BINARY: &str = "binary";

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Floor(Mode),
    /// With these settings in its environment.
    Hubbub {
        binary: PathBuf,
        settings: Vec<(String, String)>,
    },
    Uws,
    Ws,
    Nats,
    /// With `websockets.broadcast`, or a `send` for each client.
    Reference {
        has_broadcast: bool,
    },
}

/// Who takes part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Contender {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// Where the peers' packages are, and which of the cores are the server's.
#[derive(Clone, Debug)]
pub(super) struct Stable {
    /// With `npm-peers/node_modules` and `venv-peers`.
    pub(super) tools: PathBuf,
    pub(super) server_cores: CpuSet,
}

/// A contender that takes connections. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) program: Program,
    /// One for each user, if it wants some.
    pub(super) tokens: Vec<String>,
}

/// All that there are, in the order in which they take turns.
pub(super) fn all(binary: &Path, variants: &[Variant]) -> Vec<Contender> {
    let of = |name: &str, kind| Contender { name: name.to_owned(), kind };
    let hubbub = Kind::Hubbub { binary: binary.to_owned(), settings: Vec::new() };
    let mut all = vec![
        of("floor-direct", Kind::Floor(Mode::Direct)),
        of("floor-batched", Kind::Floor(Mode::Batched)),
        of("hubbub", hubbub),
    ];
    all.extend(variants.iter().map(|it| it.contender(binary)));
    all.extend([
        of("uws", Kind::Uws),
        of("ws", Kind::Ws),
        of("nats", Kind::Nats),
        of("reference-broadcast", Kind::Reference { has_broadcast: true }),
        of("reference-gather", Kind::Reference { has_broadcast: false }),
    ]);
    all
}

/// hubbub with other settings, or another build of it: `NAME=KEY=VALUE[,KEY=VALUE…]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Variant {
    name: String,
    binary: Option<PathBuf>,
    settings: Vec<(String, String)>,
}

impl Variant {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not NAME=KEY=VALUE[,KEY=VALUE…]");
        let (name, settings) = text.split_once('=').ok_or_else(wrong)?;
        let is_name = |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_alphanumeric());
        let mut variant = Self { name: name.to_owned(), binary: None, settings: Vec::new() };
        for setting in settings.split(',') {
            match setting.split_once('=').ok_or_else(wrong)? {
                (BINARY, path) => variant.binary = Some(path.into()),
                (key, value) if !key.is_empty() => {
                    variant.settings.push((key.to_owned(), value.to_owned()));
                }
                _ => return Err(wrong()),
            }
        }
        is_name(name).then_some(variant).ok_or_else(wrong)
    }

    fn contender(&self, binary: &Path) -> Contender {
        let binary = self.binary.clone().unwrap_or_else(|| binary.to_owned());
        let settings = self.settings.clone();
        Contender { name: format!("hubbub-{}", self.name), kind: Kind::Hubbub { binary, settings } }
    }
}

impl fmt::Display for Variant {
    /// For people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, binary, settings } = self;
        write!(f, "`hubbub-{name}` is hubbub with")?;
        if binary.is_some() {
            write!(f, " another build")?;
        }
        settings.iter().try_for_each(|(key, value)| write!(f, " {key}={value}"))
    }
}

impl Contender {
    /// Whether somebody who says `word` means this one: its name, or its name up to a dash.
    pub(super) fn is_meant_by(&self, word: &str) -> bool {
        self.name == word || self.name.split_once('-').is_some_and(|(family, _)| family == word)
    }

    pub(super) fn is_hubbub(&self) -> bool {
        matches!(self.kind, Kind::Hubbub { .. })
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self.kind {
            Kind::Floor(_) | Kind::Uws | Kind::Ws => Dialect::Raw,
            Kind::Hubbub { .. } => Dialect::Hubbub,
            Kind::Nats => Dialect::Nats,
            Kind::Reference { .. } => Dialect::Chat,
        }
    }

    /// What is missing for it to take part.
    pub(super) fn missing(&self, stable: &Stable) -> Option<String> {
        let tools = &stable.tools;
        let file = |path: PathBuf| (!path.exists()).then(|| format!("no {}", path.display()));
        let node = || {
            let found = std::process::Command::new("node").arg("--version").output();
            found.is_err().then(|| "no `node` on the path".to_owned())
        };
        match &self.kind {
            Kind::Floor(_) => None,
            Kind::Hubbub { binary, .. } => file(binary.clone()),
            Kind::Uws => node().or_else(|| file(tools.join("npm-peers/node_modules/uwebsockets"))),
            Kind::Ws => node().or_else(|| file(tools.join("npm-peers/node_modules/ws"))),
            Kind::Nats => file(tools.join("venv-peers/bin/nats-server")),
            Kind::Reference { .. } => file(tools.join("venv-peers/bin/python")),
        }
    }

    /// Starts it, and waits until it takes connections of so many users.
    pub(super) async fn start(&self, stable: &Stable, users: usize) -> Result<Running> {
        let folder = tempfile::Builder::new().prefix("hubbub-peers-").tempdir()?;
        let address = free_address()?;
        let command = self.command(stable, address, folder.path())?;
        let program = Program::start(command, address, folder, &stable.server_cores).await;
        let program = program.with_context(|| format!("{} did not start", self.name))?;
        let mut running = Running { program, tokens: Vec::new() };
        if self.is_hubbub() {
            let data = running.program.folder.path().join("data");
            running.tokens = tokens::sign(address, &data, users).await?;
        }
        Ok(running)
    }

    fn command(&self, stable: &Stable, address: SocketAddr, folder: &Path) -> Result<Command> {
        let peers = stable.tools.join("npm-peers");
        let python = stable.tools.join("venv-peers/bin");
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let mut command;
        match &self.kind {
            Kind::Floor(mode) => {
                command = Command::new(std::env::current_exe()?);
                let mode = if *mode == Mode::Direct { "direct" } else { "batched" };
                command.args(["peers-floor", "--mode", mode, "--listen", &address.to_string()]);
            }
            Kind::Hubbub { binary, settings } => {
                command = Command::new(binary);
                command.args(["serve", "--listen", &address.to_string()]);
                command.args(["--internal-listen", "127.0.0.1:0"]);
                command.arg("--data-dir").arg(folder.join("data"));
                command.env("HUBBUB__LIMITS__CONNECTIONS_MAX", "1000000");
                command.envs(settings.iter().map(|(key, value)| (key, value)));
            }
            Kind::Uws | Kind::Ws => {
                command = Command::new("node");
                let script = if self.kind == Kind::Uws { "uws.mjs" } else { "ws.mjs" };
                command.arg(peers.join(script)).args([host, port]);
            }
            Kind::Nats => {
                command = Command::new(python.join("nats-server"));
                command.arg("--config").arg(peers.join("nats.conf"));
                command.env("PEERS_LISTEN", address.to_string());
            }
            Kind::Reference { has_broadcast } => {
                command = Command::new(python.join("python"));
                let way = if *has_broadcast { "broadcast" } else { "gather" };
                command.arg(peers.join("reference.py")).args([&host, &port, way]);
            }
        }
        Ok(command)
    }
}

impl Stable {
    /// Puts the peers' sources beside their packages.
    pub(super) fn furnish(&self) -> Result<()> {
        let folder = self.tools.join("npm-peers");
        fs::create_dir_all(&folder)?;
        for (name, text) in SOURCES {
            fs::write(folder.join(name), text)
                .with_context(|| format!("{} cannot be written", folder.join(name).display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_has_a_name_settings_and_perhaps_a_binary() {
        let variant = Variant::parse("old=binary=/tmp/hubbub,HUBBUB__HUB__PIN_CORES=off").unwrap();
        let contender = variant.contender(Path::new("ours"));
        assert_eq!(contender.name, "hubbub-old");
        let told = "`hubbub-old` is hubbub with another build HUBBUB__HUB__PIN_CORES=off";
        assert_eq!(variant.to_string(), told);
        let settings = vec![("HUBBUB__HUB__PIN_CORES".to_owned(), "off".to_owned())];
        assert_eq!(contender.kind, Kind::Hubbub { binary: "/tmp/hubbub".into(), settings });
        for wrong in ["shards2", "=A=B", "x=A", "x==B", "a b=A=B"] {
            assert!(Variant::parse(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_word_means_one_contender_or_a_family() {
        let variant = Variant::parse("two=A=B").unwrap();
        let all = all(Path::new("hubbub"), &[variant]);
        let meant = |word| {
            let meant = all.iter().filter(|it| it.is_meant_by(word));
            meant.map(|it| it.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(meant("floor"), ["floor-direct", "floor-batched"]);
        assert_eq!(meant("hubbub"), ["hubbub", "hubbub-two"]);
        assert_eq!(meant("reference-gather"), ["reference-gather"]);
        assert_eq!(meant("socket.io"), [""; 0]);
    }
}
