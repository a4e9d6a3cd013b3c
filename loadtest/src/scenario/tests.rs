use std::collections::BTreeSet;

use clap::Parser as _;

use super::*;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    run: run::Flags,
}

/// As a subcommand has them, which gives its own the same name.
mod run {
    #[derive(clap::Args)]
    pub(super) struct Flags {
        #[command(flatten)]
        pub(super) scenario: super::Flags,
        #[arg(long)]
        another: bool,
    }
}

fn load(flags: &[&str]) -> Result<Scenario, Failure> {
    let line = Line::try_parse_from(["loadtest"].iter().chain(flags)).unwrap();
    line.run.scenario.load()
}

fn parse(text: &str) -> Result<Scenario, String> {
    file::parse("test", text).map_err(|error| format!("{error:#}"))
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    match result.unwrap_err() {
        Failure::Configuration(error) => format!("{error:#}"),
        other @ Failure::Aborted(_) => panic!("{other:?}"),
    }
}

#[test]
fn every_shipped_scenario_can_be_run() {
    for name in Scenario::shipped() {
        let scenario = Scenario::load(Some(name), &Overrides::default()).unwrap();
        scenario.check().unwrap();
        assert_eq!(scenario.name, name);
        assert!(!scenario.about.is_empty() && !scenario.thresholds.is_empty(), "{name}");
        let is_cheap = scenario.server.contains_key("HUBBUB__AUTH__COST__MEMORY");
        assert_eq!(is_cheap, !["auth-storm", "login-rush"].contains(&name), "{name}");
    }
}

#[test]
fn the_shipped_scenarios_are_those_of_the_folder() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files = std::fs::read_dir(folder).unwrap();
    let files: BTreeSet<_> = files.map(|file| file.unwrap().file_name()).collect();
    let shipped = Scenario::shipped().map(|name| format!("{name}.toml").into()).collect();
    assert_eq!(files, shipped);
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(parse(""), Ok(Scenario { name: "test".to_owned(), ..Scenario::default() }));
}

#[test]
fn a_file_is_read_from_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    std::fs::write(&path, "users = 7\npublish = { model = \"closed\", think_time = \"5s\" }")
        .unwrap();
    let path = path.to_str().unwrap();
    let scenario = Scenario::load(Some(path), &Overrides::default()).unwrap();
    assert_eq!((scenario.name.as_str(), scenario.users), ("mine", 7));
    assert_eq!(scenario.publish, Publish::Closed { think_time: Duration::from_secs(5) });
    std::fs::write(path, "users = -1").unwrap();
    let refused = refusal(Scenario::load(Some(path), &Overrides::default()));
    assert!(
        refused.starts_with(&format!("{path}: line 1, `users = -1`: invalid value")),
        "{refused}"
    );
}

#[test]
fn a_stage_without_a_target_is_all_users() {
    let text =
        "users = 9\n[[stages]]\nduration = \"1s\"\ntarget = 3\n[[stages]]\nduration = \"2s\"";
    let stages = parse(text).unwrap().stages;
    assert_eq!(stages.iter().map(|it| it.target).collect::<Vec<_>>(), [3, 9]);
}

#[test]
fn three_lengths_are_three_stages() {
    let scenario = parse("users = 9\nplateau = \"5m\"").unwrap();
    assert_eq!(scenario.stages, three_stages(9, [10, 300, 10].map(Duration::from_secs)));
    let both = parse("plateau = \"5m\"\nstages = []").unwrap_err();
    assert_eq!(both, "either `stages` or `ramp_up`, `plateau` and `ramp_down`, not both");
}

#[test]
fn a_mistake_in_a_file_is_told_with_its_line() {
    for (text, expected) in [
        ("seed = 1\nuser = 5", "line 2, `user = 5`: unknown key `user`: did you mean `users`?"),
        ("zzz = 5", "line 1, `zzz = 5`: unknown key `zzz`"),
        (
            "[[stages]]\nduration = \"1s\"\ntarjet = 5",
            "line 3, `tarjet = 5`: unknown key `tarjet`: did you mean `target`?",
        ),
        (
            "\nusers = \"many\"",
            "line 2, `users = \"many\"`: invalid type: string \"many\", expected u32",
        ),
        (
            "chaos = [\"burn@5s\"]",
            "line 1, `chaos = [\"burn@5s\"]`: chaos `burn@5s`: `burn` is none of kill, term, stop and drop",
        ),
        (
            "thresholds = [\n  \"lost==0\",\n  \"lots==0\"\n]",
            "line 1, `thresholds = [`: threshold `lots==0`: no run has a figure `lots`; \
             did you mean `lost`?",
        ),
        (
            "login = \"late\"",
            "line 1, `login = \"late\"`: unknown variant `late`, expected one of `first`, `during`, `none`",
        ),
        ("[publish]\nmodel = \"paced\"", "line 1, `[publish]`: missing field `rate_per_user`"),
        (
            "[publish]\nmodel = \"paced\"\nrate_per_usr = 1",
            "line 1, `[publish]`: unknown key `rate_per_usr`: did you mean `rate_per_user`?",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err(), expected, "{text}");
    }
    let syntax = parse("users =").unwrap_err();
    assert!(syntax.starts_with("line 1, `users =`: "), "{syntax}");
}

#[test]
fn an_unknown_name_is_told_with_the_known_ones() {
    let refused = refusal(load(&["--scenario", "reference-42"]));
    let expected = "there is no scenario and no file `reference-42`: did you mean \
                    `reference-425`? The scenarios are reference-250, reference-425, auth-storm";
    assert!(refused.starts_with(expected), "{refused}");
}

#[test]
fn flags_win_over_the_file() {
    let scenario = load(&[
        "--users=100",
        "--window=4",
        "--channels=9",
        "--channels-per-user=3",
        "--body=json",
        "--body-bytes=1000",
        "--deflate",
        "--ramp-up=1s",
        "--ramp-down=0s",
        "--idle=3s",
        "--auth=during",
        "--threshold=ack.p50<1s",
        "--threshold",
        "users==100",
        "--chaos=kill@5s",
        "--seed=77",
        "--source-addresses=2",
    ]);
    let scenario = scenario.unwrap();
    let reference = load(&[]).unwrap();
    let mut thresholds = reference.thresholds.clone();
    thresholds.extend(["ack.p50<1s", "users==100"].map(|it| it.parse().unwrap()));
    let expected = Scenario {
        users: 100,
        publish: Publish::Window { publishes: 4 },
        channels: 9,
        channels_per_user: 3,
        body: BodyKind::Json,
        body_bytes: 1000,
        deflate: true,
        stages: three_stages(100, [1, 60, 0].map(Duration::from_secs)),
        idle: Duration::from_secs(3),
        login: Login::During,
        thresholds,
        chaos: vec!["kill@5s".parse().unwrap()],
        seed: 77,
        source_addresses: 2,
        ..reference
    };
    assert_eq!(scenario, expected);
    assert_eq!(load(&["--open-rate=5"]).unwrap().publish, Publish::Open { rate: 5.0 });
}

#[test]
fn the_flags_of_a_subcommand_can_stand_beside_them() {
    let line = <Line as clap::CommandFactory>::command();
    line.clone().debug_assert();
    let another = line.get_arguments().find(|it| it.get_id() == "another").unwrap();
    assert_eq!(another.get_help_heading(), None);
}

#[test]
fn only_one_model_can_be_asked_for() {
    let line = ["loadtest", "--window=4", "--think-time=1s"];
    assert!(Line::try_parse_from(line).is_err());
}

#[test]
fn users_change_the_stages_in_proportion() {
    let scenario = load(&["--scenario=login-rush", "--users=900"]).unwrap();
    let targets: Vec<_> = scenario.stages.iter().map(|stage| stage.target).collect();
    assert_eq!(targets, [100, 900, 0]);
}

#[test]
fn stages_of_another_form_are_only_replaced_as_a_whole() {
    let refused = refusal(load(&["--scenario=login-rush", "--plateau=5s"]));
    assert!(refused.contains("give all of --ramp-up, --plateau and --ramp-down"), "{refused}");
    let all = ["--scenario=login-rush", "--ramp-up=1s", "--plateau=5s", "--ramp-down=1s"];
    assert_eq!(load(&all).unwrap().stages, three_stages(450, [1, 5, 1].map(Duration::from_secs)));
}

#[test]
fn what_cannot_be_run_is_refused_with_the_reason() {
    for (text, expected) in [
        ("users = 0", "there must be at least one user"),
        ("users = 19001", "19001 users are more than one process makes: 19000"),
        ("stages = []", "there are no stages"),
        (
            "users = 5\nstages = [{ duration = \"1s\", target = 6 }]",
            "a stage has a target of 6, and there are 5 users",
        ),
        ("plateau = \"7d\"", "it would last 7days 22s, and 7 days are the most"),
        ("stages = [{ duration = \"0s\" }]", "all stages together last 0 s"),
        (
            "publish = { model = \"paced\", rate_per_user = 0 }",
            "a rate of 0 messages per second is not within 0 and 1000000",
        ),
        (
            "publish = { model = \"open\", rate = nan }",
            "a rate of NaN messages per second is not within 0 and 1000000",
        ),
        (
            "publish = { model = \"window\", publishes = 257 }",
            "a window holds 1 to 256 publishes, and not 257",
        ),
        ("body_bytes = 40000", "a body of 40000 bytes is above 32768"),
        ("channels = 0", "there must be at least one channel"),
        ("channels_per_user = 0", "each user must be subscribed to at least one channel"),
        ("channels_per_user = 2", "2 channels per user are more than the 1 channels"),
        ("channels = 2000\nchannels_per_user = 1001", "1001 channels per user are above 1000"),
        ("publishers = 426", "426 publishers are more than the 425 users"),
        ("publishers = 0", "0 publishers are written as `publish = { model = \"nothing\" }`"),
        (
            "users = 9\nslow_readers = { users = 9 }",
            "of 9 users, 9 cannot be slow readers: one must be quick",
        ),
        ("source_addresses = 251", "there can be 1 to 250 source addresses, and not 251"),
        ("logins_max = 0", "logins_max is 0, and nobody could ever log in"),
        (
            "chaos = [\"kill*2\"]\nstages = [{ duration = \"1s\" }]",
            "chaos happens on a plateau, and the stages have none",
        ),
        (
            "chaos = [\"drop:30s@40s\"]",
            "of chaos `drop:30s@40s` nobody would be back before the plateau ends",
        ),
        (
            "[storm]\nlasts = \"1h\"",
            "calm, probe and storm last 1h 30s together, and the plateau 1m",
        ),
        (
            "login = \"during\"\n[storm]",
            "a storm and users who log in on the plateau cannot be told apart: `login` is `first` or \
             `none`",
        ),
        ("reconnects_max = 0", "reconnects_max is 0, and nobody could ever come back"),
        ("chaos = [\"kill@2m\"]", "chaos `kill@2m` comes after the plateau, which lasts 1m"),
    ] {
        let refused = refusal(parse(text).unwrap().check());
        assert_eq!(refused, format!("scenario test: {expected}"), "{text}");
    }
}

#[test]
fn too_few_open_files_are_told_with_the_remedy() {
    // No system can allow so many.
    let refused = check::allow_open_files(u32::MAX).unwrap_err().to_string();
    assert!(refused.starts_with("it needs 4294967295 open files, and "), "{refused}");
    assert!(refused.ends_with("raise it with `ulimit -n 4294967295`"), "{refused}");
}

#[test]
fn a_scenario_survives_the_outcome() {
    for name in Scenario::shipped() {
        let scenario = Scenario::load(Some(name), &Overrides::default()).unwrap();
        let text = serde_json::to_string(&scenario).unwrap();
        assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario);
    }
}
