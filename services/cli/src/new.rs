//! `jetlane new`: a crate that compiles and runs as it stands.

use crate::args::{New, NewKind};
use crate::output::{Exit, Failure, Output};
use jetlane::QueueName;
use std::path::{Path, PathBuf};

/// Names the folder of the sdk, for those who have its sources elsewhere.
const SDK_PATH: &str = "JETLANE_SDK_PATH";
/// The sdk in the source tree that this command was built from.
const SDK_OF_THIS_BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/sdk");

/// The files of a new crate: where they go, and what is in them.
type Files = [(&'static str, &'static str); 4];

const EXECUTOR: Files = [
    ("Cargo.toml", include_str!("new/executor/cargo.txt")),
    ("src/main.rs", include_str!("new/executor/main.txt")),
    ("README.md", include_str!("new/executor/readme.txt")),
    (".gitignore", "/target\n"),
];

const SUBSCRIBER: Files = [
    ("Cargo.toml", include_str!("new/subscriber/cargo.txt")),
    ("src/main.rs", include_str!("new/subscriber/main.txt")),
    ("README.md", include_str!("new/subscriber/readme.txt")),
    (".gitignore", "/target\n"),
];

/// Names that mean something else to cargo, to the crate's dependencies, or to Jetlane: a durable
/// `callback` would take completions from the callback service.
#[rustfmt::skip]
const TAKEN: [&str; 63] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true",
    "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
    "test", "core", "std", "build", "deps", "jetlane", "schemars", "serde", "tokio",
    "default", "dispatcher", "callback",
];

/// Writes the crate into a folder of its name.
pub(crate) fn run(args: &New, output: &Output) -> Result<Exit, Failure> {
    check(&args.name)?;
    let sdk = sdk()?;
    let (kind, files) = match args.kind {
        NewKind::Executor => ("executor", EXECUTOR),
        NewKind::Subscriber => ("subscriber", SUBSCRIBER),
    };
    let folder = Path::new(&args.name);
    write(folder, &files, &args.name, &sdk)?;
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let told = serde_json::json!({ "kind": kind, "name": args.name, "folder": folder, "files": names });
    output
        .data(&told, || format!("Made the {kind} {name} in ./{name}. Next: cd {name} && cargo run", name = args.name));
    Ok(Exit::Ok)
}

/// The name must serve as a package, a folder, and a queue or a durable alike.
fn check(name: &str) -> Result<(), Failure> {
    const RULE: &str = "A name is a letter and then letters, digits, '-' and '_', 64 at most, such as `greeter`.";
    QueueName::new(name).map_err(|error| Failure::of(Exit::Usage, &error).help(RULE))?;
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        return Err(Failure::new(Exit::Usage, format!("{name:?} does not start with a letter")).help(RULE));
    }
    if TAKEN.contains(&name.to_ascii_lowercase().as_str()) {
        let why = "means something else to Rust, cargo or Jetlane";
        return Err(Failure::new(Exit::Usage, format!("{name:?} {why}")).help("Choose another name."));
    }
    Ok(())
}

/// The value of the dependency on the sdk, as TOML.
fn sdk() -> Result<String, Failure> {
    let named = std::env::var_os(SDK_PATH).filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = match named {
        Some(path) if path.join("Cargo.toml").is_file() => Some(path),
        Some(path) => {
            let what = format!("{SDK_PATH} is {}, but there is no Cargo.toml", path.display());
            return Err(Failure::new(Exit::Usage, what).help("Name the folder shared/sdk of the source tree."));
        }
        None => Some(PathBuf::from(SDK_OF_THIS_BUILD)).filter(|path| path.join("Cargo.toml").is_file()),
    };
    let Some(path) = path else { return Ok(format!("\"{}\"", env!("CARGO_PKG_VERSION"))) };
    let failed = |why: &dyn std::fmt::Display| Failure::new(Exit::Error, format!("the folder of the sdk {why}"));
    let path = path.canonicalize().map_err(|error| failed(&format_args!("cannot be read: {error}")))?;
    let text = path.to_str().ok_or_else(|| failed(&"has a name that is not UTF-8"))?;
    Ok(format!("{{ path = {} }}", quote(text)))
}

/// A string of JSON is one of TOML too.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn write(folder: &Path, files: &Files, name: &str, sdk: &str) -> Result<(), Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        Failure::new(Exit::Error, format!("could not write {}: {error}", path.display()))
    };
    // Made here and never before: what is there already is somebody's.
    std::fs::create_dir(folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(Exit::Refused, format!("./{} exists already", folder.display()))
                .help("Choose another name, or remove it first.")
        }
        _ => failed(folder, error),
    })?;
    let source = folder.join("src");
    std::fs::create_dir(&source).map_err(|error| failed(&source, error))?;
    for (file, template) in files {
        let path = folder.join(file);
        let text = template.replace("@name@", name).replace("@sdk@", sdk);
        std::fs::write(&path, text).map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_queue_package_and_folder_at_once_is_refused() {
        for bad in ["", "a.b", "a b", "../x", "/tmp/x", "*", "1st", "_x", "-x", "match", "Tokio", "callback", "é"] {
            assert_eq!(check(bad).expect_err(bad).exit, Exit::Usage);
        }
        for good in ["greeter", "image-resizer", "a_2", "X"] {
            assert!(check(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_path_with_quotes_stays_one_string_of_toml() {
        assert_eq!(quote(r#"/a"b\c"#), r#""/a\"b\\c""#);
    }

    #[test]
    fn the_executor_a_newcomer_reads_fits_on_a_page() {
        let (_, main) = EXECUTOR[1];
        assert!(main.lines().count() <= 40, "{} lines", main.lines().count());
    }
}
