//! `jetlane new` makes crates that compile as they stand, and never writes over anything.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn new(folder: &Path, kind: &str, name: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetlane"));
    command.args(["new", kind, name]).current_dir(folder).env_remove("JETLANE_SDK_PATH");
    command.output().expect("the command runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

/// Checks a crate with what the workspace has built and fetched already: its versions, its profile,
/// its target folder.
fn check(krate: &Path) -> Output {
    std::fs::copy(workspace().join("Cargo.lock"), krate.join("Cargo.lock")).expect("copied");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target folder");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["check", "--offline", "--target-dir"]).arg(target).current_dir(krate);
    for setting in [
        "profile.dev.debug=\"line-tables-only\"",
        "profile.dev.package.\"*\".opt-level=1",
        "profile.dev.package.\"*\".debug=false",
    ] {
        command.args(["--config", setting]);
    }
    command.output().expect("cargo runs")
}

#[test]
fn a_new_executor_and_a_new_subscriber_compile_without_a_warning() {
    let folder = tempfile::tempdir().expect("a folder");
    for (kind, name) in [("executor", "greeter"), ("subscriber", "greeter-log")] {
        let made = new(folder.path(), kind, name);
        assert!(made.status.success(), "{}", text(&made.stderr));
        let checked = check(&folder.path().join(name));
        let said = text(&checked.stderr);
        assert!(checked.status.success() && !said.contains("warning"), "{kind}: {said}");
    }
    let main = std::fs::read_to_string(folder.path().join("greeter/src/main.rs")).expect("written");
    assert!(main.contains("\"greeter.hello\"") && main.contains("const NAME: &str = \"greeter\";"), "{main}");
    let main = std::fs::read_to_string(folder.path().join("greeter-log/src/main.rs")).expect("written");
    assert!(main.contains("const NAME: &str = \"greeter-log\";"), "{main}");
}

#[test]
fn a_new_crate_is_formatted_as_cargo_fmt_would() {
    let folder = tempfile::tempdir().expect("a folder");
    for (kind, name) in [("executor", "greeter"), ("subscriber", "a-rather-long-name-of-forty-characters-xx")] {
        assert!(new(folder.path(), kind, name).status.success());
        let main = folder.path().join(name).join("src/main.rs");
        let Ok(formatted) = Command::new("rustfmt").args(["--edition", "2024", "--check"]).arg(&main).output() else {
            eprintln!("skipped: there is no rustfmt here");
            return;
        };
        assert!(formatted.status.success(), "{kind}: {}", text(&formatted.stdout));
    }
}

#[test]
fn nothing_is_left_of_the_template_in_what_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    for (kind, name) in [("executor", "greeter"), ("subscriber", "listener")] {
        assert!(new(folder.path(), kind, name).status.success());
        for file in ["Cargo.toml", "src/main.rs", "README.md", ".gitignore"] {
            let path = folder.path().join(name).join(file);
            let text = std::fs::read_to_string(&path).expect("written");
            assert!(!text.contains("@name@") && !text.contains("@sdk@"), "{}", path.display());
        }
    }
}

#[test]
fn a_folder_that_exists_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("greeter")).expect("made");
    let refused = new(folder.path(), "executor", "greeter");
    assert_eq!(refused.status.code(), Some(8), "{}", text(&refused.stderr));
    assert_eq!(std::fs::read_dir(folder.path().join("greeter")).expect("there").count(), 0);
}

#[test]
fn a_name_that_will_not_do_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    for bad in ["a.b", "a b", "../x", "match", "callback", "1st"] {
        let refused = new(folder.path(), "subscriber", bad);
        assert_eq!(refused.status.code(), Some(2), "{bad}: {}", text(&refused.stderr));
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 0);
}

#[test]
fn the_sdk_is_taken_from_where_the_variable_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let sdk = folder.path().join("sdk");
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jetlane"));
        command.args(["new", "executor", "greeter"]).current_dir(folder.path()).env("JETLANE_SDK_PATH", &sdk);
        command.output().expect("the command runs")
    };
    assert_eq!(run().status.code(), Some(2));
    std::fs::create_dir(&sdk).expect("made");
    std::fs::write(sdk.join("Cargo.toml"), "").expect("written");
    assert!(run().status.success());
    let manifest = std::fs::read_to_string(folder.path().join("greeter/Cargo.toml")).expect("written");
    let path = sdk.canonicalize().expect("there");
    assert!(manifest.contains(&format!("jetlane = {{ path = \"{}\" }}", path.display())), "{manifest}");
}
