//! The rules that no compiler checks: who may know whom, what is pure, how files look.
//!
//! The tables below are the rules; docs/ARCHITECTURE.md says why. Test modules are exempt from the
//! arrows and from purity: a test may wire up whatever it needs.

#![allow(clippy::unwrap_used, reason = "a tidy test that cannot read the source has failed")]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, File, ImplItemFn, Item, ItemMod, ItemUse, UseTree,
    ext::IdentExt as _,
    spanned::Spanned as _,
    visit::{self, Visit},
};

/// From the outermost to the innermost. A module may use those of later rows: steps may be skipped,
/// but no arrow turns back, and none goes sideways.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["server"],
    &["edge"],
    &["connection"],
    &["transfer", "migrate"],
    &["hub", "auth"],
    &["wire", "views", "engine"],
    &["log"],
];

/// Modules beside the layers, and what of ours each may use.
const BESIDE: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("clock", &[]),
    ("priority", &[]),
    ("buckets", &["limits"]),
    // They count and close by code: the codes are words of the contract, and know nobody.
    ("metrics", &["limits", "wire::code"]),
    ("websocket", &["limits", "wire::code"]),
    // The client shares the contract with the server and nothing else.
    ("client", &["limits", "wire", "log"]),
    // Each part's settings lie with the part; the whole only collects them.
    ("config", &["limits", "server::cores", "edge::Settings", "edge::Deflate", "auth"]),
];

/// Which modules every layer may use.
const FOR_ALL: &[&str] =
    &["limits", "clock", "priority", "buckets", "metrics", "websocket", "config"];

/// Names that only some may say: the name, who may, why the others may not.
const ONLY: &[(&str, &[&str], &str)] = &[
    ("crate::config::Config", &["main", "cli", "server"], "a part gets its part of the Config"),
    ("crate::client", &["main", "cli"], "the server never uses the client"),
    ("crate::cli", &["main"], "the commands stand apart"),
    ("crate::wire::proto", &["wire", "client", "cli"], "generated types stay in `wire`"),
    ("std::env", &["main", "cli", "config"], "settings come through the configuration"),
    ("rusqlite", &["engine::sqlite", "views", "auth"], "SQLite stays with the engine and auth"),
    ("pprof", &["edge::profile"], "one place starts and stops the profiler of the process"),
    ("rustls", TLS, TLS_WHY),
    ("tokio_rustls", &["edge", "client"], TLS_WHY),
    ("async_nats", &["engine::jetstream"], "NATS stays in its engine"),
    ("tungstenite", TUNGSTENITE, TUNGSTENITE_WHY),
    ("tokio_tungstenite", TUNGSTENITE, TUNGSTENITE_WHY),
];

// `auth::fetch` is a client of issuers: their keys come over HTTPS.
const TLS: &[&str] = &["edge", "hub", "connection::socket", "client", "auth::fetch"];
const TLS_WHY: &str = "a session is made on the edge and used by the socket";
const TUNGSTENITE: &[&str] = &["websocket", "connection", "edge::upgrade", "client"];
const TUNGSTENITE_WHY: &str = "frames are known to `websocket` and its users only";

/// Modules without tokio, clock, randomness, environment or I/O: time, ids and outboxes are their
/// arguments, results are values.
const PURE: &[&str] = &[
    "hub::allowance",
    "hub::channel",
    "hub::cork",
    "hub::ephemeral",
    "hub::revoked",
    "hub::sequencer",
    "hub::fanout",
    "hub::outbox",
    "hub::presence",
    "log",
    "transfer::csv",
    "transfer::ndjson",
    "transfer::cut",
    "transfer::line",
    "transfer::pending",
    "transfer::record",
    "websocket",
    "wire",
    "buckets",
    "auth::common_passwords",
    "auth::password",
    "auth::token",
    "auth::workers::mailbox",
];

/// What a pure module does not name.
const IMPURE: &[&str] = &[
    "tokio",
    "rand",
    "getrandom",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "crate::clock",
];

/// Plain values that live beside I/O in the standard library.
const PURE_AFTER_ALL: &[&str] =
    &["std::io::Cursor", "std::io::IoSlice", "std::net::IpAddr", "std::net::Ipv4Addr"];

/// A module of one of these names would take in anything.
const NAMELESS: &[&str] =
    &["util", "utils", "common", "helper", "helpers", "types", "manager", "misc"];

/// Past this many lines a file has a seam.
const LINES_MAX: usize = 800;

/// Where hand-written files are.
const FOLDERS: &[&str] = &[
    "src", "argon2", "tests", "benches", "examples", "loadtest", "xtask", "proto", "fuzz", "sdk",
    "web", "build.rs",
];

/// Folders of what is built, generated or of others.
const NOT_OURS: &[&str] = &["target", "node_modules", "dist", "gen"];

/// The endings of hand-written files.
const ENDINGS: &[&str] = &["rs", "py", "proto", "ts", "mjs", "css", "sh"];

/// Words that a folder of TypeScript says in these files only, and why.
const ONLY_IN: &[(&str, &[&str], &[&str], &str)] = &[
    ("web/src/", HTML, &[], "what people write is text and never HTML"),
    ("web/src/", &["localStorage", "sessionStorage"], &["theme.ts"], "no secret is stored there"),
    ("web/src/", &["/sdk/"], &[], "the client is imported by its name"),
    ("sdk/typescript/src/", &["/gen/"], &["codec.ts", "commands.ts"], "generated types stay there"),
    ("sdk/typescript/src/", &["setTimeout(", "Date.now"], &["client.ts"], "the rest is pure"),
    (
        "sdk/typescript/src/",
        &["new WebSocket", "WebSocket("],
        &["socket.ts"],
        "one place opens them",
    ),
];
const HTML: &[&str] =
    &["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "srcdoc"];

#[test]
fn the_source_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), &mut files);
    }
    assert!(files.len() > 20, "only {} files were found: is this the right folder?", files.len());
    files.sort();

    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
        found.extend(check(&name, &text));
    }
    assert!(found.is_empty(), "\n{}\n({} in all)", found.join("\n"), found.len());
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let is_ours = |name: &std::ffi::OsStr| NOT_OURS.iter().all(|other| name != *other);
        if path.file_name().is_none_or(is_ours) {
            for entry in fs::read_dir(path).unwrap() {
                collect(&entry.unwrap().path(), files);
            }
        }
    } else if path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known)) {
        files.push(path.to_path_buf());
    }
}

/// Everything that is untidy in one file.
fn check(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    look(file, text, &mut found);
    if file.ends_with(".ts") {
        look_at_typescript(file, text, &mut found);
    }
    if file.ends_with(".rs") {
        match syn::parse_file(text) {
            Ok(parsed) => understand(file, &parsed, &mut found),
            Err(error) => found.push(format!("{file}: cannot be parsed: {error}")),
        }
    }
    found
}

/// The rules on the bare text.
fn look(file: &str, text: &str, found: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{file}: {lines} lines; past {LINES_MAX} there is a seam"));
    }
    for name in file.trim_end_matches(".rs").split('/').filter(|name| NAMELESS.contains(name)) {
        found.push(format!("{file}: `{name}` is no name for what is in it"));
    }
    // Spelt in two halves, so that this file is tidy itself.
    let (dbg, fixme, todo) = (concat!("db", "g!("), concat!("FIX", "ME"), concat!("TO", "DO"));
    let ignored = concat!("#[ig", "nore");
    for (index, line) in text.lines().enumerate() {
        let mut say = |what: &str| found.push(format!("{file}:{}: {what}", index + 1));
        if line.contains(dbg) {
            say("a forgotten debugging print");
        }
        if line.contains(fixme) {
            say("fix it now, or give it an issue");
        }
        if line.contains(todo) && !line.contains(&format!("{todo}(#")) {
            say("an unfinished thing names its issue, as in (#12)");
        }
        if line.trim_start().starts_with(ignored) {
            say("a test that is never run tests nothing");
        }
    }
}

/// The rules on TypeScript, by its text.
fn look_at_typescript(file: &str, text: &str, found: &mut Vec<String>) {
    let is_headed = text.starts_with("//") || text.starts_with("/**");
    if file.contains("/src/") && !is_headed {
        found.push(format!("{file}: does not begin with a sentence on what it is"));
    }
    for (folder, words, places, why) in ONLY_IN {
        let may = |place: &&str| file.strip_prefix(folder).is_some_and(|rest| rest == *place);
        if !file.starts_with(folder) || places.iter().any(may) {
            continue;
        }
        for word in words.iter().filter(|word| text.contains(**word)) {
            found.push(format!("{file}: says `{word}`: {why}"));
        }
    }
}

/// The rules on the syntax.
fn understand(file: &str, parsed: &File, found: &mut Vec<String>) {
    // A file `tests.rs`, split off from its module, says by its name what it is.
    let split_off = file.ends_with("/tests.rs");
    if !split_off && !parsed.attrs.iter().any(is_module_doc) {
        found
            .push(format!("{file}: a module begins with `//!`: what it does, and why it is there"));
    }
    let mut reader = Reader::new(module_of(file));
    reader.visit_file(parsed);
    for item in &reader.inline_modules {
        if NAMELESS.contains(&item.as_str()) {
            found.push(format!("{file}: `mod {item}` is no name for what is in it"));
        }
    }
    let Some(module) = module_of(file) else { return };
    if module.split("::").any(|part| part == "tests") {
        return;
    }
    for (path, line) in reader.names() {
        if let Some(why) = refuse(&module, &path) {
            found.push(format!("{file}:{line}: `{module}` names `{path}`: {why}"));
        }
    }
}

fn is_module_doc(attribute: &Attribute) -> bool {
    matches!(attribute.style, syn::AttrStyle::Inner(_)) && attribute.path().is_ident("doc")
}

/// `src/hub/channel.rs` → `hub::channel`. Only the server's own modules have rules of their own.
fn module_of(file: &str) -> Option<String> {
    let path = file.strip_prefix("src/")?.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    (path != "lib").then(|| path.replace('/', "::"))
}

/// Why `module` may not name `path`, if so.
fn refuse(module: &str, path: &str) -> Option<String> {
    if let Some((_, _, why)) = ONLY.iter().find(|(name, may, _)| {
        within(path, name) && !may.iter().any(|one| within(module, one)) && !owns(module, name)
    }) {
        return Some((*why).to_owned());
    }
    if PURE.iter().any(|pure| within(module, pure))
        && IMPURE.iter().any(|impure| within(path, impure))
        && !PURE_AFTER_ALL.iter().any(|value| within(path, value))
    {
        return Some("a pure module has no runtime, clock, chance or I/O".to_owned());
    }
    let path = path.strip_prefix("crate::")?;
    let used = path.split("::").next()?;
    let own = module.split("::").next()?;
    if used == own || may_use(own, used, path) {
        return None;
    }
    Some(format!("no arrow goes from `{own}` to `{used}`"))
}

/// Whether `path`, which lies in `used`, is something that `own` may use, or in no module at all.
fn may_use(own: &str, used: &str, path: &str) -> bool {
    let layer = |module: &str| LAYERS.iter().position(|row| row.contains(&module));
    let beside = |module: &str| BESIDE.iter().find(|(name, _)| *name == module);
    if layer(used).is_none() && beside(used).is_none() {
        return true;
    }
    if let Some((_, may)) = beside(own) {
        // An import of a module is followed to what is named through it.
        return may.iter().any(|one| within(path, one) || within(one, path));
    }
    match (layer(own), layer(used)) {
        (Some(from), Some(to)) => from < to,
        // `main` and `cli` may use the client: ONLY says so.
        (Some(_), None) => FOR_ALL.contains(&used) || used == "client",
        // A module that the tables do not know: whoever adds it gives it a place in them.
        (None, _) => false,
    }
}

/// Whether `path` is `root` or lies within it.
fn within(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn owns(module: &str, name: &str) -> bool {
    name.strip_prefix("crate::")
        .is_some_and(|name| name.split("::").next().is_some_and(|own| within(module, own)))
}

/// Collects every path that a file names outside of its tests, made absolute as far as the file's
/// own imports allow. It does not know types: what comes through a value is not seen.
struct Reader {
    /// The module around the item that is read.
    module: Vec<String>,
    /// What a `use` made of a name: `Instant` → `std::time::Instant`.
    imports: HashMap<String, String>,
    named: Vec<(Vec<String>, usize)>,
    inline_modules: Vec<String>,
}

impl Reader {
    fn new(module: Option<String>) -> Self {
        let module =
            module.map_or_else(Vec::new, |path| path.split("::").map(str::to_owned).collect());
        Self { module, imports: HashMap::new(), named: Vec::new(), inline_modules: Vec::new() }
    }

    fn names(&self) -> Vec<(String, usize)> {
        let mut names: Vec<_> = Vec::new();
        for (path, line) in &self.named {
            let first = path.first().map_or("", String::as_str);
            let rest = path.get(1..).unwrap_or_default();
            let full = self.imports.get(first).map_or_else(
                || path.join("::"),
                |import| {
                    let mut full = vec![import.as_str()];
                    full.extend(rest.iter().map(String::as_str));
                    full.join("::")
                },
            );
            names.push((full, *line));
        }
        names.sort();
        names.dedup();
        names
    }

    /// `super::place` in `log::batch` → `crate::log::place`.
    fn absolute(&self, path: Vec<String>) -> Vec<String> {
        let mut module = self.module.clone();
        let mut rest = path.into_iter().peekable();
        match rest.peek().map(String::as_str) {
            Some("crate" | "hubbub") => {
                module.clear();
                rest.next();
            }
            Some("self") => {
                rest.next();
            }
            Some("super") => {}
            _ => return rest.collect(),
        }
        while rest.next_if(|part| part == "super").is_some() {
            module.pop();
        }
        ["crate".to_owned()].into_iter().chain(module).chain(rest).collect()
    }

    fn name(&mut self, path: Vec<String>, line: usize) {
        let path = self.absolute(path);
        self.named.push((path, line));
    }

    fn import(&mut self, tree: &UseTree, before: &[String], line: usize) {
        let with = |ident: &syn::Ident| {
            let mut path = before.to_vec();
            // `a::{self}` names `a` itself.
            if ident != "self" || before.is_empty() {
                path.push(ident.unraw().to_string());
            }
            path
        };
        match tree {
            UseTree::Path(path) => self.import(&path.tree, &with(&path.ident), line),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, before, line);
                }
            }
            UseTree::Glob(_) => self.name(before.to_vec(), line),
            UseTree::Name(name) => {
                let path = self.absolute(with(&name.ident));
                self.imports.insert(path.last().cloned().unwrap_or_default(), path.join("::"));
                self.named.push((path, line));
            }
            UseTree::Rename(rename) => {
                let path = self.absolute(with(&rename.ident));
                self.imports.insert(rename.rename.to_string(), path.join("::"));
                self.named.push((path, line));
            }
        }
    }

    /// The paths inside of a macro call, which is not parsed: runs of `name::name`.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        let mut at = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1
                }
                TokenTree::Ident(ident) => {
                    if colons != 2 && !path.is_empty() {
                        self.name(std::mem::take(&mut path), at);
                    }
                    at = ident.span().start().line;
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    if !path.is_empty() {
                        self.name(std::mem::take(&mut path), at);
                    }
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        if !path.is_empty() {
            self.name(path, at);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes_of(item).iter().any(is_cfg_test) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !item.attrs.iter().any(is_cfg_test) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.inline_modules.push(item.ident.to_string());
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import(&item.tree, &[], item.span().start().line);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.unraw().to_string()).collect();
        self.name(names, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_cfg_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
}

// The checker itself: each rule refuses a small bad sample, so that it can fail.

/// What is found in a source that is otherwise tidy.
fn found(file: &str, source: &str) -> Vec<String> {
    check(file, &format!("//! A sample.\n{source}\n"))
}

#[track_caller]
fn refused(file: &str, source: &str, because: &str) {
    let found = found(file, source);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains(because), "{} does not say `{because}`", found[0]);
}

#[track_caller]
fn accepted(file: &str, source: &str) {
    assert_eq!(found(file, source), Vec::<String>::new());
}

#[test]
fn an_arrow_may_skip_a_step_but_not_turn_back() {
    accepted("src/edge/accept.rs", "use crate::{hub::Hub, log::place::UserId, limits};");
    refused("src/hub/shard.rs", "use crate::edge::Edge;", "from `hub` to `edge`");
    refused("src/log/tail.rs", "use crate::engine::Engine;", "from `log` to `engine`");
    refused("src/wire/decode.rs", "use crate::{log::place, engine::Engine};", "`wire` to `engine`");
}

#[test]
fn an_arrow_is_seen_however_it_is_written() {
    let because = "from `log` to `engine`";
    refused("src/log/tail.rs", "use super::super::engine;", because);
    refused("src/log/tail.rs", "use crate::engine as backend;", because);
    refused("src/log/tail.rs", "use crate::engine::*;", because);
    refused("src/log/tail.rs", "fn f(e: &crate::engine::memory::Memory) {}", because);
    refused("src/log/tail.rs", "fn f() { assert!(crate::engine::ok()); }", because);
    refused("src/log/tail.rs", "mod inner { use super::super::super::engine; }", because);
}

#[test]
fn a_module_that_the_tables_do_not_know_must_be_given_a_place() {
    refused("src/gossip.rs", "use crate::hub::Hub;", "from `gossip` to `hub`");
}

#[test]
fn test_modules_may_use_anything() {
    accepted("src/log/tail.rs", "#[cfg(test)] mod tests { use crate::engine::memory::Memory; }");
    accepted("src/log/tail/tests.rs", "use crate::{engine::memory::Memory, wire::proto::Record};");
    refused("src/log/tail.rs", "#[cfg(unix)] mod inner { use crate::hub::Hub; }", "`log` to `hub`");
}

#[test]
fn only_the_top_sees_the_whole_config() {
    accepted("src/server/mod.rs", "use crate::config::Config;");
    accepted("src/edge/mod.rs", "use crate::config::EdgeConfig;");
    refused("src/edge/mod.rs", "use crate::config::Config;", "its part of the Config");
    refused("src/edge/mod.rs", "use crate::config; fn f(c: &config::Config) {}", "its part");
}

#[test]
fn settings_come_through_the_configuration() {
    accepted("src/config.rs", "fn f() { std::env::vars(); }");
    refused("src/hub/shard.rs", "use std::env; fn f() {}", "through the configuration");
}

#[test]
fn the_server_never_uses_the_client_or_the_commands() {
    accepted("src/cli.rs", "use hubbub::client::Client;");
    refused("src/server/mod.rs", "use crate::client::Client;", "never uses the client");
    refused("src/client/mod.rs", "use crate::hub::Hub;", "from `client` to `hub`");
}

#[test]
fn generated_types_and_foreign_crates_stay_in_their_modules() {
    accepted("src/wire/decode.rs", "use super::proto::ClientEnvelope;");
    refused("src/hub/mod.rs", "use crate::wire::proto::Record;", "stay in `wire`");
    refused("src/hub/mod.rs", "use crate::wire; type R = wire::proto::Record;", "stay in `wire`");
    accepted("src/engine/sqlite/writer.rs", "use rusqlite::Connection;");
    refused("src/hub/mod.rs", "type C = rusqlite::Connection;", "SQLite stays");
    accepted("src/edge/upgrade.rs", "use tokio_tungstenite::tungstenite::handshake;");
    refused("src/edge/http/mod.rs", "use tokio_tungstenite::tungstenite;", "frames are known");
    accepted("src/websocket/reader.rs", "use crate::wire::code::CloseCode;");
    refused("src/websocket/mod.rs", "use crate::wire::Encoding;", "from `websocket` to `wire`");
}

#[test]
fn a_pure_module_has_no_clock_runtime_or_io() {
    let because = "a pure module";
    accepted("src/hub/shard.rs", "use std::time::Instant; fn f() { Instant::now(); }");
    accepted("src/hub/channel.rs", "use std::time::Instant; fn f(now: Instant) {}");
    accepted("src/websocket/frame.rs", "use std::io::IoSlice;");
    refused("src/hub/channel.rs", "use std::time::Instant; fn f() { Instant::now(); }", because);
    refused("src/hub/channel.rs", "use std::time as t; fn f() { t::SystemTime::now(); }", because);
    refused("src/hub/channel.rs", "fn f() { crate::clock::unix_ms(); }", because);
    refused("src/hub/outbox.rs", "async fn f() { tokio::select! {} }", because);
    refused("src/log/batch.rs", "use std::fs;", because);
    refused("src/websocket/frame.rs", "use std::io::{IoSlice, Read};", because);
    refused("src/auth/token.rs", "fn f() -> u64 { rand::random() }", because);
    refused("src/wire/code.rs", "use std::process;", because);
    refused("src/wire/code.rs", "fn f() { println!(\"{:?}\", std::thread::current()); }", because);
}

#[test]
fn typescript_keeps_to_its_places() {
    accepted("web/src/theme.ts", "localStorage.theme");
    refused("web/src/room.ts", "localStorage.theme", "no secret");
    refused("web/src/text/render.ts", "node.innerHTML = body", "never HTML");
    accepted("web/test/theme.test.ts", "node.innerHTML = body");
    refused("sdk/typescript/src/session.ts", "Date.now()", "pure");
}

#[test]
fn every_file_looks_as_it_should() {
    assert_eq!(check("src/hub/mod.rs", "use bytes::Bytes;").len(), 1, "no module doc");
    assert_eq!(check("src/hub/tests.rs", "use bytes::Bytes;").len(), 0, "its name says it");
    refused("src/hub/mod.rs", &"\n".repeat(LINES_MAX), "there is a seam");
    refused("src/hub/utils.rs", "", "is no name");
    refused("src/common/frame.rs", "", "is no name");
    refused("src/hub/mod.rs", "mod helpers {}", "is no name");
    refused("src/hub/mod.rs", concat!("fn f() { db", "g!(1); }"), "debugging");
    refused("src/hub/mod.rs", concat!("// FIX", "ME: later"), "an issue");
    refused("src/hub/mod.rs", concat!("// TO", "DO: later"), "names its issue");
    accepted("src/hub/mod.rs", concat!("// TO", "DO(#12): later"));
    refused("tests/server/main.rs", concat!("#[ig", "nore]\nfn f() {}"), "tests nothing");
}
