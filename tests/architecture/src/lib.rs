//! What the house rules read: the project's source files, and what is code in them.
//!
//! The rules themselves are tests, in `tests/house`: arrows between crates, names on the wire, and
//! tidiness. Code is taken as rustfmt leaves it; nothing here parses Rust.

use std::fs;
use std::path::{Path, PathBuf};

/// One source file of the project.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its path from the project's root, with `/` between folders.
    pub path: String,
    /// Its whole text.
    pub text: String,
}

/// The project's root.
///
/// # Panics
/// Where the project's folders have been moved without this one.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate lies in tests/architecture").to_owned()
}

/// All files of the project whose names end so, in the order of their paths.
///
/// # Panics
/// Where a file of the project cannot be read.
pub fn sources(endings: &[&str]) -> Vec<Source> {
    let root = root();
    let mut open = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project is readable") {
            let path = entry.expect("a folder of the project is readable").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let generated = ["target", "node_modules", "__pycache__"].contains(&name.as_str());
            if name.starts_with('.') && name != ".ci" || generated {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                let path = path.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

impl Source {
    /// Whether the whole file is a test or a benchmark: `tests.rs`, or below a folder `tests` or
    /// `benches` that is not the project's own room of that name.
    pub fn is_test(&self) -> bool {
        let inside = self.path.strip_prefix("tests/").unwrap_or(&self.path);
        inside.ends_with("/tests.rs") || inside.split('/').any(|folder| folder == "tests" || folder == "benches")
    }

    /// The lines before the file's own test module, numbered from 1.
    pub fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let inline_tests =
            |(line, next): (&str, Option<&str>)| line == "#[cfg(test)]" && next.is_some_and(|n| n.starts_with("mod "));
        let lines: Vec<&str> = self.text.lines().collect();
        let end = (0..lines.len())
            .find(|&at| inline_tests((lines[at], lines.get(at + 1).copied())))
            // `mod tests;` only names a file: what follows it still counts.
            .filter(|&at| lines[at + 1].ends_with('{'))
            .unwrap_or(lines.len());
        lines.into_iter().take(end).enumerate().map(|(at, line)| (at + 1, line))
    }

    /// Of [`Source::product_lines`] those that are no comment.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.product_lines().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    #[test]
    fn what_stands_in_a_test_module_or_a_comment_is_no_code() {
        let file = source("a.rs", "//! Room.\nlet a;\n    // b\n#[cfg(test)]\nmod tests {\n    let c;\n}\n");
        assert_eq!(file.code_lines().collect::<Vec<_>>(), [(2, "let a;")]);
        let file = source("a.rs", "#[cfg(test)]\nmod tests;\nlet d;\n");
        assert_eq!(file.code_lines().count(), 3);
    }

    #[test]
    fn tests_are_told_from_the_room_of_that_name() {
        let is_test = |path| source(path, "").is_test();
        assert!(is_test("shared/bus/tests/lease.rs"));
        assert!(is_test("shared/core/src/queue/tests.rs"));
        assert!(is_test("tests/system/tests/faults/main.rs"));
        assert!(is_test("shared/core/benches/queue.rs"));
        assert!(!is_test("tests/kit/src/lib.rs"));
        assert!(!is_test("shared/core/src/queue.rs"));
    }

    #[test]
    fn this_very_file_is_among_the_sources() {
        let found = sources(&[".rs"]);
        assert!(found.iter().any(|file| file.path == "tests/architecture/src/lib.rs"));
        assert!(!found.iter().any(|file| file.path.starts_with("target/")));
    }
}
