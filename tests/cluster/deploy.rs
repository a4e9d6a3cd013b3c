//! The files of `deploy/nats`, as they are but for addresses and folders: three servers come up with
//! them, `hubbub check` is content, and a hub runs on them with no more rights than they give.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::harness::{
    LOBBY, PATIENCE, account, client, free_addresses, history, program, tree, url, within,
};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Three servers by the files, and what a hub must be told.
struct Deployed {
    _servers: Vec<Running>,
    engine: String,
    monitors: String,
    credentials: PathBuf,
    folder: TempDir,
}

fn deploy() -> Option<Deployed> {
    let Some(nats) = testnats::program() else {
        println!("{}", testnats::MISSING);
        return None;
    };
    let folder = TempDir::new().unwrap();
    let clients: [SocketAddr; 3] = free_addresses();
    let monitors: [SocketAddr; 3] = free_addresses();
    let routes: [SocketAddr; 3] = free_addresses();
    let route = |at: &SocketAddr| format!("\"nats://cluster:of-routes@{at}\"");
    let secrets = format!(
        "HUB_PASSWORD: \"of-hubs\"\nCLUSTER_PASSWORD: \"of-routes\"\nROUTES: [{}]\n",
        routes.iter().map(route).collect::<Vec<_>>().join(", ")
    );
    let credentials = folder.path().join("credentials");
    fs::write(&credentials, "hubbub:of-hubs\n").unwrap();
    let mut servers = Vec::new();
    for (at, name) in NAMES.iter().enumerate() {
        let place = folder.path().join(name);
        fs::create_dir(&place).unwrap();
        let copy = |file: &str, changes: &[(&str, String)]| {
            let mut text = fs::read_to_string(tree().join("deploy/nats").join(file)).unwrap();
            for (theirs, ours) in changes {
                assert!(text.contains(theirs), "{file} has {theirs}");
                text = text.replace(theirs, ours);
            }
            fs::write(place.join(file), text).unwrap();
        };
        let own = format!("{name}.conf");
        copy(
            &own,
            &[
                ("0.0.0.0:4222", clients[at].to_string()),
                ("0.0.0.0:8222", monitors[at].to_string()),
            ],
        );
        let data = place.join("data").display().to_string();
        copy("cluster.conf", &[("0.0.0.0:6222", routes[at].to_string()), ("/var/lib/nats", data)]);
        fs::write(place.join("secrets.conf"), &secrets).unwrap();
        let mut server = Command::new(&nats);
        server.arg("-c").arg(place.join(own)).stdin(Stdio::null()).stdout(Stdio::null());
        let log = fs::File::create(place.join("log")).unwrap();
        servers.push(Running(server.stderr(log).spawn().unwrap()));
    }
    let list = |scheme: &str, at: &[SocketAddr]| {
        at.iter().map(|at| format!("{scheme}{at}")).collect::<Vec<_>>()
    };
    Some(Deployed {
        _servers: servers,
        engine: list("nats://", &clients).join(","),
        monitors: format!("{:?}", list("http://", &monitors)),
        credentials,
        folder,
    })
}

impl Deployed {
    fn program(&self, arguments: &[&str]) -> Command {
        let mut program = program(arguments);
        program.args(["--engine", &self.engine]);
        program.env("HUBBUB__JETSTREAM__MONITOR_URLS", &self.monitors);
        program.env("HUBBUB__JETSTREAM__CREDENTIALS", &self.credentials);
        program
    }

    /// What `hubbub check` says once it is content.
    #[expect(clippy::disallowed_methods, reason = "servers that start tell nobody: they are asked")]
    fn checked(&self) -> String {
        let begun = Instant::now();
        loop {
            let check = self.program(&["check"]).output().unwrap();
            let said = String::from_utf8(check.stdout).unwrap();
            if check.status.success() {
                return said;
            }
            let log = fs::read_to_string(self.folder.path().join("n1/log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "{said}\n{log}");
            sleep(Duration::from_millis(200));
        }
    }
}

#[tokio::test]
async fn the_files_of_deploy_nats_make_a_cluster_that_hubs_run_on() {
    let Some(deployed) = deploy() else { return };
    let said = deployed.checked();
    assert_eq!(said.matches("sync: before every acknowledgement").count(), 3, "{said}");
    assert_eq!(said.matches("made at the first start").count(), 6, "{said}");

    let [address, internal] = free_addresses();
    let data = deployed.folder.path().join("hub").display().to_string();
    let (listen, internal) = (address.to_string(), internal.to_string());
    let mut serve = deployed.program(&["serve", "--pin-cores", "off", "--shards", "1"]);
    serve.args(["--listen", &listen, "--internal-listen", &internal, "--data-dir", &data]);
    serve.env("HUBBUB__AUTH__COST__MEMORY", "64 KiB").env("HUBBUB__AUTH__COST__PASSES", "1");
    let _hub = Running(serve.stdout(Stdio::null()).spawn().unwrap());
    let begun = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the hub does not start");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let token = account(&url(address), "ada").await;
    let ada = client(url(address), "ada", token);
    within("a publish", ada.publish(LOBBY, "hello")).await.unwrap();
    assert_eq!(history(&ada, LOBBY).await.len(), 1);
    assert_eq!(deployed.checked().matches("as it was made, 3 copies").count(), 6);
}

#[test]
fn the_password_of_another_is_refused_with_the_reason() {
    let Some(deployed) = deploy() else { return };
    deployed.checked();
    let wrong = deployed.folder.path().join("wrong");
    fs::write(&wrong, "hubbub:of-nobody\n").unwrap();
    let mut check = deployed.program(&["check"]);
    let check = check.env("HUBBUB__JETSTREAM__CREDENTIALS", wrong).output().unwrap();
    assert_eq!(check.status.code(), Some(1));
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(said.contains("FAILED") && said.contains("it does not know us"), "{said}");
    let refusal = String::from_utf8(check.stderr).unwrap();
    assert!(refusal.contains("conditions are not met"), "{refusal}");
    assert!(!said.contains("of-nobody") && !refusal.contains("of-nobody"));
}

#[test]
fn what_the_readme_says_of_the_files_is_so() {
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let folder = tree().join("deploy/nats");
    let (readme, conf) = (read(&folder.join("README.md")), read(&folder.join("cluster.conf")));
    for line in ["sync_interval: always", "max_payload: 8MB", "lame_duck_duration"] {
        assert!(readme.contains(line) && conf.contains(line), "{line}");
    }
    for secret in ["HUB_PASSWORD", "CLUSTER_PASSWORD", "ROUTES"] {
        assert!(readme.contains(secret) && conf.contains(&format!("${secret}")), "{secret}");
    }
}
