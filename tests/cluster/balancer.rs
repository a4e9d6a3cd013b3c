//! The balancer of docs/CLUSTER.md, as it stands there but for addresses, before two hubs.

use std::{
    env, fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hubbub::client::Api;
use hyper::Method;

use crate::harness::{
    Cluster, LOBBY, account, client, free_addresses, history, tree, until, url, within,
};

/// The program, if it is here. Debian has it where only root looks.
fn haproxy() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    places.map(|place| place.join("haproxy")).find(|program| program.is_file())
}

/// The configuration that the page has.
fn recipe() -> String {
    let page = fs::read_to_string(tree().join("docs/CLUSTER.md")).unwrap();
    let recipe = page.split("```haproxy\n").nth(1).expect("the page has it");
    recipe.split("```").next().unwrap().to_owned()
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_balancer_of_the_page_moves_people_from_a_hub_that_drains() {
    let Some(haproxy) = haproxy() else {
        println!("NOT RUN: there is no haproxy here");
        return;
    };
    let Some(mut cluster) = Cluster::start(2, 1) else { return };
    let [port] = free_addresses();
    let mut lines = Vec::new();
    for line in recipe().lines() {
        let word = line.split_whitespace().next().unwrap_or_default();
        match word {
            "maxconn" => {}
            "bind" => lines.push(format!("  bind {port}")),
            "server" if line.contains("10.0.0.11") => {
                let hubs = cluster.hubs.iter().enumerate();
                lines.extend(hubs.map(|(at, hub)| format!("  server hub{at} {}", hub.address)));
            }
            "server" => {}
            _ => lines.push(line.to_owned()),
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, lines.join("\n") + "\n").unwrap();
    let mut command = Command::new(haproxy);
    command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null());
    let _balancer = Running(command.spawn().unwrap());

    let api = Api::new(url(port), None);
    let ready = async || api.send(Method::GET, "/readyz", &[], bytes::Bytes::new()).await.is_ok();
    until("the balancer", ready).await;
    let token = account(&url(port), "ada").await;
    let ada = client(url(port), "ada", token);
    within("a publish", ada.publish(LOBBY, "before")).await.unwrap();
    for hub in &mut cluster.hubs {
        assert!(hub.stop().success());
        within("a publish", ada.publish(LOBBY, "meanwhile")).await.unwrap();
        hub.start();
        // Until the balancer has seen that it is back.
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    let bodies: Vec<_> = history(&ada, LOBBY).await.into_iter().map(|it| it.body).collect();
    assert_eq!(bodies, ["before", "meanwhile", "meanwhile"]);
}
