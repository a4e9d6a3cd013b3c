use std::{fs, path::Path, time::Duration};

use super::*;

fn load(file: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Loaded, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.toml");
    fs::write(&path, file).unwrap();
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(&Flags { config: Some(path), ..flags }, environment)
}

fn load_file(file: &str) -> Result<Loaded, ConfigError> {
    load(file, &[], Flags::default())
}

fn origin(loaded: &Loaded, key: &str) -> String {
    loaded.settings.iter().find(|setting| setting.key == key).unwrap().origin.clone()
}

#[test]
fn nothing_at_all_gives_the_defaults() {
    let loaded = load_file("").unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.settings.iter().all(|setting| setting.origin == "default"));
    assert!(loaded.settings.len() > 25, "{}", loaded.settings.len());
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file =
        "[server]\nlisten = '127.0.0.1:1'\ninternal_listen = '127.0.0.1:2'\ndata_dir = 'file'";
    let environment = [
        ("HUBBUB__SERVER__LISTEN", "127.0.0.1:3"),
        ("HUBBUB__SERVER__INTERNAL_LISTEN", "127.0.0.1:4"),
        ("HUBBUB_UNRELATED", "x"),
        ("PATH", "/bin"),
    ];
    let listen = Some("127.0.0.1:5".parse().unwrap());
    let loaded = load(file, &environment, Flags { listen, ..Flags::default() }).unwrap();
    assert_eq!(loaded.config.server.listen.port(), 5);
    assert_eq!(loaded.config.server.internal_listen.port(), 4);
    assert_eq!(loaded.config.server.data_dir, Path::new("file"));
    assert_eq!(origin(&loaded, "server.listen"), "--listen");
    assert_eq!(origin(&loaded, "server.internal_listen"), "HUBBUB__SERVER__INTERNAL_LISTEN");
    assert!(origin(&loaded, "server.data_dir").ends_with("test.toml"));
    assert_eq!(origin(&loaded, "hub.pin_cores"), "default");
}

#[test]
fn every_flag_has_its_key() {
    let flags = Flags {
        config: None,
        listen: Some("127.0.0.1:1".parse().unwrap()),
        internal_listen: Some("127.0.0.1:2".parse().unwrap()),
        data_dir: Some("d".into()),
        engine: Some("nats://a,b:4223,tls://c".parse().unwrap()),
        engine_single: true,
        pin_cores: Some(PinCores::List(vec![0, 1])),
        deflate: Some(edge::Deflate::On),
        tls_cert: Some("c.pem".into()),
        tls_key: Some("k.pem".into()),
        shards: Some(Shards::Number(3)),
        jwks_url: Some("http://127.0.0.1:3/keys".to_owned()),
        key_file: None,
        process: Process::Serve,
    };
    let auth = Flags { process: Process::Auth, ..flags.clone() };
    let auth = load("", &[], auth).unwrap().config;
    assert_eq!((auth.auth.listen.port(), auth.auth.internal_listen.port()), (1, 2));
    assert_eq!(auth.server, Server { data_dir: "d".into(), ..Server::default() });
    let config = load("", &[], flags).unwrap().config;
    assert_eq!(config.server.listen.port(), 1);
    assert_eq!(config.server.internal_listen.port(), 2);
    assert_eq!(config.server.data_dir, Path::new("d"));
    assert_eq!(config.engine, EngineKind::JetStream);
    assert_eq!(config.jetstream.servers, ["nats://a", "nats://b:4223", "tls://c"]);
    assert!(config.jetstream.single);
    assert_eq!(config.hub.pin_cores, PinCores::List(vec![0, 1]));
    assert_eq!(config.hub.shards, Shards::Number(3));
    assert_eq!(config.edge.deflate, edge::Deflate::On);
    assert_eq!(config.edge.tls.certificate, Path::new("c.pem"));
    assert_eq!(config.edge.tls.key, Path::new("k.pem"));
    assert_eq!(config.trust.jwks_url, "http://127.0.0.1:3/keys");
    // Which is instead of an address.
    let flags = Flags { key_file: Some("public.pem".into()), ..Flags::default() };
    let config = load("", &[], flags).unwrap().config;
    assert_eq!(config.trust.key_file, Path::new("public.pem"));
}

#[test]
fn a_reload_names_what_it_does_not_apply() {
    let start = load_file("[server]\ndata_dir = 'a'").unwrap();
    let same = load_file("[server]\ndata_dir = 'a'\n[edge]\nallowed_origins = ['https://a']");
    assert_eq!(start.needs_restart_for(&same.unwrap()), Vec::<&str>::new());
    let other = load_file("[server]\ndata_dir = 'b'\n[limits]\nping_interval = '1s'").unwrap();
    assert_eq!(start.needs_restart_for(&other), ["limits.ping_interval", "server.data_dir"]);
}

#[test]
fn durations_sizes_and_lists_are_read_from_file_and_environment() {
    let file = "
        [limits]
        ping_interval = '40s'
        message_bytes_max = '32KiB'
        [auth.cost]
        memory = '12 MiB'
        passes = 3
        [hub]
        pin_cores = [0, 1]
        shards = 2
        [log]
        synchronous = 'normal'
    ";
    let environment = [
        ("HUBBUB__CHANNELS__CREATED_AT_START", "[\"lobby\",\"dev\"]"),
        ("HUBBUB__AUTH__ACCESS_TOKEN_LIFETIME", "15m"),
        ("HUBBUB__AUTH__REGISTRATION", "closed"),
        ("HUBBUB__AUTH__COST__LANES", "2"),
        ("HUBBUB__HUB__PIN_CORES", "1"),
        ("HUBBUB__EDGE__DEFLATE", "off"),
    ];
    let config = load(file, &environment, Flags::default()).unwrap().config;
    assert_eq!(config.limits.ping_interval, Duration::from_secs(40));
    assert_eq!(config.limits.message_bytes_max, ByteSize::kib(32));
    assert_eq!(config.auth.cost.memory, ByteSize::mib(12));
    assert_eq!((config.auth.cost.passes, config.auth.cost.lanes), (3, 2));
    assert_eq!(config.auth.access_token_lifetime, Duration::from_secs(900));
    assert_eq!(config.auth.registration, auth::Registration::Closed);
    assert_eq!(config.hub.pin_cores, PinCores::List(vec![1]));
    assert_eq!(config.edge.deflate, edge::Deflate::Off);
    assert_eq!(config.hub.shards, Shards::Number(2));
    assert_eq!(config.log.synchronous, Synchronous::Normal);
    assert_eq!(config.channels.created_at_start, ["lobby", "dev"]);
}

#[test]
fn a_value_can_be_kept_in_a_file_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("issuer");
    fs::write(&path, "chat.example\n").unwrap();
    let variable = ("HUBBUB__AUTH__ISSUER_FILE", path.to_str().unwrap());
    let loaded = load("", &[variable], Flags::default()).unwrap();
    assert_eq!(loaded.config.auth.issuer, "chat.example");
    assert_eq!(origin(&loaded, "auth.issuer"), "HUBBUB__AUTH__ISSUER_FILE");
    let missing = [("HUBBUB__AUTH__ISSUER_FILE", "/nonexistent/issuer")];
    let refused = load("", &missing, Flags::default());
    assert!(matches!(refused, Err(ConfigError::Unreadable { .. })));
}

#[test]
fn an_unknown_key_stops_the_start_with_a_suggestion() {
    for (file, suggestion) in [
        ("[server]\nlissten = '127.0.0.1:1'", "server.listen"),
        ("[serve]\nlisten = '127.0.0.1:1'", "server.listen"),
        ("listen = '127.0.0.1:1'", "server.listen"),
        ("[limits]\nmessage_byte_max = 1", "limits.message_bytes_max"),
        ("[auth.cost]\nmemry = 1", "auth.cost.memory"),
    ] {
        let refused = load_file(file).unwrap_err().to_string();
        let expected = format!("did you mean `{suggestion}`?");
        assert!(refused.contains(&expected), "{refused}");
        assert!(refused.contains("test.toml"), "{refused}");
    }
    let refused = load("", &[("HUBBUB__HUB__PIN_CORE", "2")], Flags::default()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "unknown key `hub.pin_core` (HUBBUB__HUB__PIN_CORE): did you mean `hub.pin_cores`?"
    );
    let refused = load_file("[zzz]\nqqq = 1").unwrap_err().to_string();
    assert!(!refused.contains("did you mean"), "{refused}");
}

#[test]
fn a_wrong_value_is_named_with_its_key_and_place() {
    for (file, key) in [
        ("[server]\nlisten = 'nowhere'", "server.listen"),
        ("[limits]\nping_interval = 25", "limits.ping_interval"),
        ("[limits]\nping_interval = 'soon'", "limits.ping_interval"),
        ("[hub]\npin_cores = 'on'", "hub.pin_cores"),
        ("[hub]\nshards = 0", "hub.shards"),
        ("[hub]\nshards = 'many'", "hub.shards"),
        ("[log]\nsynchronous = 'off'", "log.synchronous"),
        ("engine = 'postgres'", "engine"),
        ("[auth]\nregistration = 'maybe'", "auth.registration"),
        ("[edge]\ntrusted_proxies = ['10.0.0.1/8']", "edge.trusted_proxies"),
        ("server = 1", "server"),
    ] {
        let refused = load_file(file).unwrap_err();
        assert!(matches!(refused, ConfigError::Value(_)), "{refused:?}");
        let refused = refused.to_string();
        assert!(refused.contains(key) && refused.contains("test.toml"), "{refused}");
    }
    assert!(matches!(load_file("[server"), Err(ConfigError::Value(_))));
}

#[test]
fn values_that_make_no_sense_are_all_named() {
    for (file, key) in [
        ("[limits]\nmessage_bytes_max = 0", "limits.message_bytes_max"),
        ("[limits]\nmessage_bytes_max = '2MiB'", "limits.outbox_bytes_max"),
        ("[limits]\nlogin_message_bytes_max = '65KiB'", "limits.login_message_bytes_max"),
        ("[limits]\nrequest_head_bytes_max = '4KiB'", "limits.request_head_bytes_max"),
        ("[limits]\nconnections_max = 0", "limits.connections_max"),
        ("[limits]\npong_timeout = '0s'", "limits.pong_timeout"),
        ("[auth.cost]\nmemory = '4GiB'", "auth.cost"),
        ("[auth.cost]\npasses = 0", "auth.cost"),
        ("[auth]\nworkers_max = 1000", "auth.workers_max"),
        ("[auth]\nissuer = ''", "auth.issuer"),
        ("[edge]\nallowed_origins = ['https://chat.example/']", "edge.allowed_origins"),
        ("[edge]\nallowed_origins = ['*']", "edge.allowed_origins"),
        ("[auth]\nlisten = '127.0.0.1:7881'", "auth.internal_listen"),
        ("[edge.tls]\ncertificate = 'c.pem'", "edge.tls.key"),
        ("[edge.tls]\nkey = 'k.pem'", "edge.tls.certificate"),
        ("[channels]\ncreated_at_start = ['']", "channels.created_at_start"),
        ("[server]\ninternal_listen = '127.0.0.1:7878'", "server.internal_listen"),
        ("engine = 'jetstream'", "jetstream.servers must name"),
        ("[jetstream]\nservers = ['a:4222']", "`nats://host:4222`"),
        ("[jetstream]\nservers = ['nats://a/path']", "`nats://host:4222`"),
        ("[jetstream]\nservers = ['nats://u:p@a']", "must not hold a password"),
        ("[jetstream]\nmonitor_urls = ['https://a']", "jetstream.monitor_urls"),
        ("[jetstream]\nprefix = 'a.b'", "jetstream.prefix"),
        ("[jetstream]\nstreams = 0", "jetstream.streams"),
    ] {
        let refused = load_file(file).unwrap_err();
        assert!(matches!(refused, ConfigError::Nonsense(_)), "{refused:?}");
        assert!(refused.to_string().contains(key), "{refused}");
    }
    let refused = load_file("[limits]\nping_interval = '0s'\nconnections_max = 0").unwrap_err();
    assert_eq!(refused.to_string().lines().count(), 2, "{refused}");
}

#[test]
fn a_section_may_be_empty() {
    assert_eq!(load_file("[auth.cost]\n[server]\n").unwrap().config, Config::default());
    assert!(matches!(load_file("[sever]\n"), Err(ConfigError::Value(_))));
}

#[test]
fn both_ports_may_be_free_ones() {
    let file = "[server]\nlisten = '127.0.0.1:0'\ninternal_listen = '127.0.0.1:0'";
    assert!(load_file(file).is_ok());
}

#[test]
fn a_named_file_must_be_there() {
    let flags = Flags { config: Some("/nonexistent/hubbub.toml".into()), ..Flags::default() };
    let refused = Config::load(&flags, []);
    assert!(matches!(refused, Err(ConfigError::Unreadable { .. })), "{refused:?}");
}

#[test]
fn settings_show_values_as_toml() {
    let loaded = load_file("[limits]\nmessage_bytes_max = 32768").unwrap();
    let value = |key: &str| {
        loaded.settings.iter().find(|setting| setting.key == key).unwrap().value.clone()
    };
    assert_eq!(value("limits.message_bytes_max"), "\"32.0 KiB\"");
    assert_eq!(value("limits.ping_interval"), "\"25s\"");
    assert_eq!(value("hub.pin_cores"), "\"auto\"");
    assert_eq!(value("hub.shards"), "\"auto\"");
    assert_eq!(value("channels.created_at_start"), "[\"lobby\"]");
    assert_eq!(value("auth.cost.passes"), "2");
}

#[test]
fn the_flag_of_the_engine_goes_back_to_sqlite() {
    let file = "engine = 'jetstream'\n[jetstream]\nservers = ['nats://a']";
    assert_eq!(load_file(file).unwrap().config.engine, EngineKind::JetStream);
    let flags = Flags { engine: Some("sqlite".parse().unwrap()), ..Flags::default() };
    let loaded = load(file, &[], flags).unwrap();
    assert_eq!(loaded.config.engine, EngineKind::Sqlite);
    assert_eq!(origin(&loaded, "engine"), "--engine");
}
