//! The places that settings come from, each as a layer of keys and values; and keys nobody knows.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format as _, Toml},
    value::{Dict, Map, Value},
};

use super::{ConfigError, EngineFlag, EngineKind, Flags, Process, UnknownKey};

/// The file that is read, if it is there, when no other is named.
const FILE_NAME: &str = "hubbub.toml";

/// What the names of our environment variables begin with, and what parts them.
const ENVIRONMENT_PREFIX: &str = "HUBBUB__";
const ENVIRONMENT_SEPARATOR: &str = "__";
const ENVIRONMENT_FILE_SUFFIX: &str = "_FILE";

/// How alike an unknown key and a known one are for the one to be suggested.
const SUGGESTION_LIKENESS_MIN: f64 = 0.75;

/// Values from one place, whose name goes with each of them.
#[derive(Clone)]
pub(super) struct Layer {
    origin: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// The one value of `key`, nested as its dots say.
fn layer(origin: String, key: &str, value: Value) -> Layer {
    let values = figment::util::nest(key, value).into_dict().unwrap_or_default();
    Layer { origin, values }
}

/// All layers, the weakest first. `known` are the names of the keys that there are.
pub(super) fn read(
    flags: &Flags,
    environment: impl IntoIterator<Item = (String, String)>,
    known: &[String],
) -> Result<Vec<Layer>, ConfigError> {
    let mut layers = Vec::from_iter(read_file(flags.config.as_deref())?);
    layers.extend(read_environment(environment, known)?);
    layers.extend(read_flags(flags));
    Ok(layers)
}

fn read_file(named: Option<&Path>) -> Result<Option<Layer>, ConfigError> {
    let path = named.unwrap_or(Path::new(FILE_NAME));
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(source) => return Err(ConfigError::Unreadable { path: path.to_owned(), source }),
    };
    let origin = path.display().to_string();
    let data = Toml::string(&text).data();
    let data = data.map_err(|error| ConfigError::Value(format!("{origin}: {error}")))?;
    Ok(data.into_values().next().map(|values| Layer { origin, values }))
}

fn read_environment(
    environment: impl IntoIterator<Item = (String, String)>,
    known: &[String],
) -> Result<Vec<Layer>, ConfigError> {
    let mut layers = Vec::new();
    for (variable, text) in environment {
        let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        let key_of = |name: &str| name.replace(ENVIRONMENT_SEPARATOR, ".").to_ascii_lowercase();
        let in_file = name
            .strip_suffix(ENVIRONMENT_FILE_SUFFIX)
            .map(key_of)
            .filter(|key| known.contains(key));
        let (key, text) = match in_file {
            Some(key) => {
                let path = PathBuf::from(&text);
                let text = fs::read_to_string(&path)
                    .map_err(|source| ConfigError::Unreadable { path, source })?;
                (key, text.trim_end_matches(['\n', '\r']).to_owned())
            }
            None => (key_of(name), text),
        };
        // Numbers, lists and booleans as TOML writes them; anything else is a string.
        let value: Value = text.parse().unwrap_or_else(|infallible| match infallible {});
        layers.push(layer(variable, &key, value));
    }
    Ok(layers)
}

fn read_flags(flags: &Flags) -> Vec<Layer> {
    let text = |value: Option<String>| value.map(Value::from);
    let path = |path: &Option<PathBuf>| {
        text(path.as_ref().map(|path| path.to_string_lossy().into_owned()))
    };
    let (engine, servers) = match &flags.engine {
        None => (None, None),
        Some(EngineFlag::Sqlite) => (Some(EngineKind::Sqlite), None),
        Some(EngineFlag::JetStream(servers)) => (Some(EngineKind::JetStream), Some(servers)),
    };
    let (listen, internal_listen) = match flags.process {
        Process::Serve => ("server.listen", "server.internal_listen"),
        Process::Auth => ("auth.listen", "auth.internal_listen"),
    };
    [
        ("--listen", listen, text(flags.listen.map(|address| address.to_string()))),
        (
            "--internal-listen",
            internal_listen,
            text(flags.internal_listen.map(|address| address.to_string())),
        ),
        ("--data-dir", "server.data_dir", path(&flags.data_dir)),
        ("--engine", "engine", text(engine.map(|kind| kind.name().to_owned()))),
        ("--engine", "jetstream.servers", servers.map(|servers| Value::from(servers.clone()))),
        ("--engine-single", "jetstream.single", flags.engine_single.then(|| Value::from(true))),
        ("--deflate", "edge.deflate", text(flags.deflate.map(|policy| policy.to_string()))),
        ("--pin-cores", "hub.pin_cores", text(flags.pin_cores.as_ref().map(ToString::to_string))),
        ("--tls-cert", "edge.tls.certificate", path(&flags.tls_cert)),
        ("--tls-key", "edge.tls.key", path(&flags.tls_key)),
        ("--jwks-url", "trust.jwks_url", text(flags.jwks_url.clone())),
        ("--key-file", "trust.key_file", path(&flags.key_file)),
        ("--shards", "hub.shards", text(flags.shards.map(|shards| shards.to_string()))),
    ]
    .into_iter()
    .filter_map(|(flag, key, value)| Some(layer(flag.to_owned(), key, value?)))
    .collect()
}

/// The names of all keys that the defaults have.
pub(super) fn leaves(defaults: &Figment) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(data) = defaults.data() {
        data.values().for_each(|values| collect_keys(values, "", &mut names));
    }
    names
}

fn collect_keys(values: &Dict, section: &str, names: &mut Vec<String>) {
    for (key, value) in values {
        let name = format!("{section}{key}");
        match value {
            Value::Dict(_, inner) => collect_keys(inner, &format!("{name}."), names),
            _ => names.push(name),
        }
    }
}

/// The keys of a layer that nobody knows.
pub(super) fn unknown_keys(
    layer: &Layer,
    known: &[String],
) -> Result<Vec<UnknownKey>, ConfigError> {
    let mut names = Vec::new();
    collect_keys(&layer.values, "", &mut names);
    names.retain(|name| !known.contains(name));
    let is_section = |name: &String| known.iter().any(|key| key.starts_with(&format!("{name}.")));
    if let Some(name) = names.iter().find(|name| is_section(name)) {
        let text = format!("`{name}` is a section, not a value ({})", layer.origin);
        return Err(ConfigError::Value(text));
    }
    let origin = &layer.origin;
    Ok(names
        .into_iter()
        .map(|key| UnknownKey { suggestion: suggest(&key, known), key, origin: origin.clone() })
        .collect())
}

/// The known key that is most like this one, in whole or, where the section was forgotten, in its
/// last part.
fn suggest(unknown: &str, known: &[String]) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |key: &String| {
        let whole = strsim::jaro_winkler(unknown, key);
        let in_last = strsim::normalized_damerau_levenshtein(&last(unknown), &last(key));
        whole.max(in_last)
    };
    known
        .iter()
        .map(|key| (likeness(key), key))
        .filter(|(likeness, _)| *likeness >= SUGGESTION_LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, key)| key.clone())
}
