//! Both commands against a server that is a script: it reads a request and answers as it is told.

use std::io::{BufRead as _, BufReader};

use clap::Parser as _;
use hubbub::edge::admin_access::Secret;
use tempfile::TempDir;

use super::*;

#[derive(Debug, clap::Parser)]
enum Arguments {
    Import(ImportArgs),
    Export(ExportArgs),
}

/// A folder with a secret, and the address of a server that has one conversation.
struct Place {
    home: TempDir,
    url: String,
    heard: thread::JoinHandle<(String, Vec<u8>)>,
}

/// What a server does with a request.
enum Server {
    /// Reads it to its end, then answers.
    Answers(String),
    /// Answers when it has read the head, and then waits for the other side to go.
    AnswersAtOnce(String),
    /// Reads the head and so many bytes, and is gone.
    Dies(usize),
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

impl Place {
    fn new(server: Server) -> Self {
        let home = TempDir::new().unwrap();
        Secret::load_or_create(home.path()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut input = BufReader::new(stream.try_clone().unwrap());
            let mut output = stream;
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                // Nothing more: it has gone before it said what it wants.
                if input.read_line(&mut head).unwrap_or_default() == 0 {
                    return (head, Vec::new());
                }
            }
            let mut body = Vec::new();
            let lingers = matches!(server, Server::AnswersAtOnce(_));
            let answer = match server {
                Server::Answers(answer) => {
                    if head.to_lowercase().contains("transfer-encoding: chunked") {
                        read_chunks(&mut input, &mut body);
                    }
                    answer
                }
                Server::AnswersAtOnce(answer) => answer,
                Server::Dies(bytes) => {
                    body = vec![0; bytes];
                    input.read_exact(&mut body).unwrap();
                    String::new()
                }
            };
            output.write_all(answer.as_bytes()).unwrap();
            if lingers {
                // A connection that is closed with something unread in it loses the answer.
                let _ = io::copy(&mut input, &mut io::sink());
            }
            (head, body)
        });
        Self { home, url, heard }
    }

    fn file(&self, content: &str) -> String {
        let path = self.home.path().join("messages.ndjson");
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn run(&self, words: &[&str]) -> Result<(), CliError> {
        let data_dir = self.home.path().to_str().unwrap();
        let admin = ["--internal", &self.url, "--data-dir", data_dir];
        match Arguments::try_parse_from([&["hubbub"], words, &admin].concat()).unwrap() {
            Arguments::Import(args) => import(args).await,
            Arguments::Export(args) => export(args).await,
        }
    }

    /// The names in the folder, apart from the secret's.
    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.home.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "admin-secret").collect()
    }

    fn heard(self) -> (String, Vec<u8>) {
        self.heard.join().unwrap()
    }
}

fn read_chunks(input: &mut impl io::BufRead, body: &mut Vec<u8>) {
    loop {
        let mut size = String::new();
        input.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let begin = body.len();
        body.resize(begin + size, 0);
        input.read_exact(&mut body[begin..]).unwrap();
        input.read_line(&mut String::new()).unwrap();
        if size == 0 {
            return;
        }
    }
}

fn answer(invalid: u64) -> String {
    let lines = if invalid > 0 { r#"{"line":17,"reason":"no body\u001b[2J"}"# } else { "" };
    let body = format!(
        r#"{{"result":{{"status":"ok","stats":{{"bytes":10,"records":{{"valid":5,"invalid":{invalid},"total":{}}},"added":3,"known":2}},"invalid":[{lines}]}}}}"#,
        5 + invalid
    );
    http("200 OK", &body)
}

#[tokio::test]
async fn a_file_is_sent_as_it_is_and_in_parts() {
    let place = Place::new(Server::Answers(answer(0)));
    let content = "{\"channel\":\"lobby\"}\n".repeat(50_000);
    let file = place.file(&content);
    place.run(&["import", &file]).await.unwrap();
    let secret = fs::read_to_string(place.home.path().join("admin-secret")).unwrap();
    let (head, body) = place.heard();
    assert!(head.starts_with("POST /v1/import HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("authorization: Bearer {}\r\n", secret.trim())), "{head}");
    assert!(head.contains("content-type: application/x-ndjson\r\n"), "{head}");
    assert!(body == content.as_bytes(), "{} bytes of {}", body.len(), content.len());
}

#[tokio::test]
async fn invalid_lines_are_told_and_are_an_exit_code_of_their_own() {
    let place = Place::new(Server::Answers(answer(2)));
    let file = place.file("x\n");
    let error = place.run(&["import", &file]).await.unwrap_err();
    assert_eq!(error.to_string(), "2 of the lines are invalid and were left out");
    assert_eq!(error.exit_code(), std::process::ExitCode::from(2));
    let body = answer(2);
    let body = body.split("\r\n\r\n").nth(1).unwrap();
    let told = told(&serde_json::from_str::<Answer>(body).unwrap().result);
    let expected = "10 B read, 7 lines: 3 added, 2 known already, 2 invalid\n\
                    line 17: no body\\u{1b}[2J\n\
                    and 1 more\n";
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_connection_that_breaks_says_how_to_go_on() {
    let place = Place::new(Server::Dies(100_000));
    let file = place.file(&"x".repeat(50_000_000));
    let error = place.run(&["import", &file]).await.unwrap_err();
    assert!(matches!(error, CliError::Transfer(TransferError::ImportBroke { .. })), "{error:?}");
    assert!(error.to_string().contains("run the same again"), "{error}");
    assert_eq!(error.exit_code(), std::process::ExitCode::FAILURE);
}

#[tokio::test]
async fn a_server_that_refuses_is_sent_no_more() {
    let problem = r#"{"title":"no","name":"forbidden","code":203}"#;
    let place = Place::new(Server::AnswersAtOnce(http("403 Forbidden", problem)));
    // It never ends.
    let error = place.run(&["import", "/dev/zero"]).await.unwrap_err();
    assert_eq!(error.to_string(), "no [forbidden (203)]");
}

#[tokio::test]
async fn an_answer_of_another_kind_is_no_success() {
    for body in ["{}", r#"{"result":{"status":"failed"}}"#, "hello"] {
        let place = Place::new(Server::Answers(http("200 OK", body)));
        let file = place.file("x\n");
        let error = place.run(&["import", &file]).await.unwrap_err();
        assert!(matches!(error, CliError::Transfer(TransferError::Unintelligible)), "{error:?}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_the_reason() {
    let place = Place::new(Server::AnswersAtOnce(String::new()));
    let folder = place.home.path().to_str().unwrap().to_owned();
    let error = place.run(&["import", &folder]).await.unwrap_err();
    assert!(matches!(error, CliError::Transfer(TransferError::Read { .. })), "{error:?}");
    let absent = format!("{folder}/absent");
    let error = place.run(&["import", &absent]).await.unwrap_err();
    assert!(error.to_string().ends_with("absent"), "{error}");
}

#[tokio::test]
async fn an_export_replaces_a_file_when_it_is_whole() {
    let place = Place::new(Server::Answers(http("200 OK", "{\"channel\":\"lobby\"}\n")));
    let file = place.file("old");
    let words = ["export", "--channel", "a b", "--format", "csv", "--columns", "time,body"];
    place.run(&[&words[..], &["-o", &file]].concat()).await.unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "{\"channel\":\"lobby\"}\n");
    assert_eq!(place.files(), ["messages.ndjson"]);
    let (head, _) = place.heard();
    let path = "/v1/export?format=csv&channel=a%20b&columns=time,body";
    assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{head}");
}

#[tokio::test]
async fn an_export_that_breaks_off_leaves_what_was_there() {
    let whole = http("200 OK", "{\"channel\":\"lobby\"}\n");
    let half = whole[..whole.len() - 5].to_owned();
    let place = Place::new(Server::Answers(half));
    let file = place.file("old");
    let error = place.run(&["export", "-o", &file]).await.unwrap_err();
    assert!(matches!(error, CliError::Transfer(TransferError::ExportBroke { .. })), "{error:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "old");
    assert_eq!(place.files(), ["messages.ndjson"]);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_move_is_given_up_and_what_does_is_not() {
    let progress = Progress::new(None);
    assert_eq!(progress.while_moving(std::future::pending::<()>()).await, None);
    let slow = async {
        for _ in 0..5 {
            tokio::time::sleep(STALL_TIMEOUT / 2).await;
            progress.add(1);
        }
        7
    };
    assert_eq!(progress.while_moving(slow).await, Some(7));
}
