//! What `--help` says, command by command, as checked-in files: a change of words is seen in review.
//! `UPDATE_HELP=1` writes them anew.

use clap::CommandFactory as _;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help")
}

/// Every command, as the words that lead to it.
fn commands(command: &clap::Command, words: &[String], all: &mut Vec<Vec<String>>) {
    all.push(words.to_vec());
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let words = [words, &[inner.get_name().to_owned()]].concat();
        commands(inner, &words, all);
    }
}

fn help(words: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_jetlane"))
        .args(words)
        .arg("--help")
        // Help shows the values of variables.
        .env_remove("NATS_URL")
        .env_remove("NATS_CREDS")
        .output()
        .expect("the command runs");
    assert!(output.status.success(), "{words:?} --help ended with {}", output.status);
    let said = String::from_utf8(output.stdout).expect("help is text");
    // Blanks at the ends of lines are nobody's words.
    said.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn help_says_what_is_checked_in() {
    let mut all = Vec::new();
    commands(&jetlane_cli::args::Args::command(), &[], &mut all);
    assert!(all.len() > 10, "the commands are not found");
    let update = std::env::var_os("UPDATE_HELP").is_some();
    std::fs::create_dir_all(folder()).expect("a folder");
    let mut files = BTreeSet::new();
    let mut stale = Vec::new();
    for words in all {
        let name = format!("{}.txt", [&["jetlane".to_owned()], &words[..]].concat().join("-"));
        let (path, said) = (folder().join(&name), help(&words));
        if update {
            std::fs::write(&path, &said).expect("written");
        }
        if std::fs::read_to_string(&path).ok().as_ref() != Some(&said) {
            stale.push(format!("{name}:\n{said}"));
        }
        files.insert(name);
    }
    for entry in std::fs::read_dir(folder()).expect("a folder") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        if !files.contains(&name) {
            stale.push(format!("{name}: there is no such command"));
        }
    }
    assert!(stale.is_empty(), "UPDATE_HELP=1 cargo test -p jetlane-cli --test help\n{}", stale.join("\n"));
}
