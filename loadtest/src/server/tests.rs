use std::os::unix::fs::PermissionsExt as _;

use tokio::{task::yield_now, time::timeout};

use super::*;

/// How long anything may take that happens within milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that says where it listens, as a server does, and then does this.
fn pretending(folder: &Path, then: &str) -> Setup {
    let program = folder.join("hubbub");
    let script = "#!/bin/sh\n\
                  echo \"$*\" > \"$(dirname \"$0\")/arguments\"\n\
                  env > \"$(dirname \"$0\")/environment\"\n";
    let script = format!("{script}{then}\n");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    Setup::new(Some(program), free_address().unwrap(), folder).unwrap()
}

/// Ends when it is told to.
const OBEYS: &str = "trap 'exit 0' TERM\n\
    echo 'listening on http://127.0.0.1:1'\n\
    mkfifo \"$0.never\"\n\
    while :; do read -r line <> \"$0.never\"; done";

#[tokio::test]
async fn a_server_is_told_both_addresses_and_ends_when_it_is_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let setup = pretending(folder.path(), OBEYS).with_cheap_logins();
    let server = setup.start().await.unwrap();
    assert_ne!(setup.internal, setup.listen);
    let arguments = fs::read_to_string(folder.path().join("arguments")).unwrap();
    assert!(arguments.contains(&format!("--listen {}", setup.listen)), "{arguments}");
    assert!(arguments.contains(&format!("--internal-listen {}", setup.internal)), "{arguments}");
    let environment = fs::read_to_string(folder.path().join("environment")).unwrap();
    assert!(environment.contains("HUBBUB__AUTH__COST__MEMORY=8KiB"), "{environment}");
    server.terminate(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_end_in_time_is_killed_and_blamed() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let refuses = OBEYS.replace("exit 0", ":");
    let server = pretending(folder.path(), &refuses).start().await.unwrap();
    let pid = server.pid().unwrap();
    let late = server.terminate(Duration::from_millis(50)).await.unwrap_err();
    assert!(late.to_string().contains("still there"), "{late}");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());

    let fails = OBEYS.replace("exit 0", "exit 3");
    let server = pretending(other.path(), &fails).start().await.unwrap();
    let failed = server.terminate(PATIENCE).await.unwrap_err();
    assert!(failed.to_string().contains("did not end well: exit status: 3"), "{failed}");
}

#[tokio::test]
async fn a_frozen_server_goes_on_when_it_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let server = pretending(folder.path(), OBEYS).start().await.unwrap();
    server.freeze().unwrap();
    // A thread that the kernel has held up meets the signal when it comes back from there.
    let is_frozen = async || {
        while !is_frozen(server.pid().unwrap()).unwrap() {
            yield_now().await;
        }
    };
    timeout(PATIENCE, is_frozen()).await.unwrap();
    server.resume().unwrap();
    // What is frozen does not hear SIGTERM.
    server.terminate(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_start_is_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let setup = pretending(folder.path(), "echo 'cannot listen' >&2; exit 1");
    let error = setup.start().await.map(|_| ()).unwrap_err();
    assert!(error.to_string().ends_with("it said last:\ncannot listen"), "{error}");
}

#[test]
fn clients_do_not_take_the_port_of_a_server_that_is_down() {
    let address = free_address().unwrap();
    let listener = std::net::TcpListener::bind(address).unwrap();
    let client = std::net::TcpStream::connect(address).unwrap();
    assert_ne!(client.local_addr().unwrap().ip(), address.ip());
    drop(listener);
}
