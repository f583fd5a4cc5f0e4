//! Which crate may know which: the arrows of ARCHITECTURE.md, held by `cargo metadata`.

use crate::none;
use cargo_metadata::{Dependency, DependencyKind, Metadata, MetadataCommand, Package};
use jetlane_architecture::root;

/// A room, and the rooms that it may know. A folder that ends with `/` speaks for all rooms in it.
const ARROWS: &[(&str, &[&str])] = &[
    ("schemas", &[]),
    ("shared/mutants", &[]),
    ("shared/core", &["schemas", "shared/mutants"]),
    ("shared/simulator", &["schemas", "shared/core"]),
    ("shared/bus", &["schemas", "shared/mutants"]),
    ("shared/service", &["schemas"]),
    ("shared/sdk", &["schemas", "shared/core", "shared/bus", "shared/mutants"]),
    // The command composes the services; they never know each other.
    ("services/cli", &["schemas", "shared/", "services/"]),
    ("services/", &["schemas", "shared/"]),
    // The kit starts a dispatcher, so that the sdk need not know one.
    ("tests/kit", &["schemas", "shared/", "services/dispatcher"]),
    ("tests/", &["schemas", "shared/", "services/", "tests/kit"]),
    ("examples", &["schemas", "shared/", "services/", "tests/kit"]),
];

/// Rooms that may, in their tests alone, use the kit as a user would.
const TESTED_WITH_KIT: &[&str] = &["shared/sdk", "services/"];

/// An outside crate, and the only rooms that may use it.
const OWNERS: &[(&str, &[&str])] = &[
    ("async-nats", &["shared/bus", "tests/"]),
    ("reqwest", &["shared/service", "services/executor", "services/callback", "tests/"]),
];

/// The two packages whose names are not `jetlane-<folder>`.
const NAMED_OTHERWISE: &[(&str, &str)] = &[("shared/sdk", "jetlane"), ("tests/kit", "jetlane-testkit")];

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().expect("cargo knows the workspace")
}

fn folder(package: &Package) -> String {
    let parent = package.manifest_path.parent().expect("a manifest lies in a folder");
    parent.strip_prefix(root()).expect("a member lies in the project").to_string().replace('\\', "/")
}

/// The folder of a dependency inside the project.
fn folder_of_dependency(dependency: &Dependency) -> Option<String> {
    let path = dependency.path.as_ref()?;
    Some(path.strip_prefix(root()).expect("a path dependency lies in the project").to_string().replace('\\', "/"))
}

fn covers(pattern: &str, folder: &str) -> bool {
    if pattern.ends_with('/') { folder.starts_with(pattern) } else { folder == pattern }
}

fn any_covers(patterns: &[&str], folder: &str) -> bool {
    patterns.iter().any(|pattern| covers(pattern, folder))
}

/// Whether a room may know another. The first row of [`ARROWS`] that speaks for the room decides.
fn may_know(from: &str, to: &str, kind: DependencyKind) -> bool {
    let row = ARROWS.iter().find(|(room, _)| covers(room, from));
    row.is_some_and(|(_, known)| any_covers(known, to))
        || (kind == DependencyKind::Development && to == "tests/kit" && any_covers(TESTED_WITH_KIT, from))
}

#[test]
fn crates_know_each_other_only_along_the_arrows() {
    let mut breaches = Vec::new();
    for package in metadata().workspace_packages() {
        let from = folder(package);
        for dependency in &package.dependencies {
            if let Some(to) = folder_of_dependency(dependency).filter(|to| !may_know(&from, to, dependency.kind)) {
                breaches.push(format!("{from} knows {to}"));
            }
        }
    }
    none("arrows that ARCHITECTURE.md does not have", &breaches);
}

#[test]
fn a_service_that_knew_another_would_be_seen() {
    assert!(!may_know("services/executor", "services/dispatcher", DependencyKind::Normal));
    assert!(!may_know("shared/core", "shared/bus", DependencyKind::Development));
    assert!(!may_know("shared/core", "shared/simulator", DependencyKind::Development));
    assert!(!may_know("shared/simulator", "shared/bus", DependencyKind::Normal));
    assert!(!may_know("shared/bus", "shared/core", DependencyKind::Normal));
    assert!(!may_know("shared/sdk", "tests/kit", DependencyKind::Normal));
    assert!(may_know("shared/sdk", "tests/kit", DependencyKind::Development));
    assert!(may_know("services/cli", "services/dispatcher", DependencyKind::Normal));
    assert!(!may_know("a/new/room", "schemas", DependencyKind::Normal));
}

#[test]
fn the_broker_and_the_web_are_spoken_to_by_their_owners_alone() {
    let metadata = metadata();
    let mut breaches = Vec::new();
    for package in metadata.workspace_packages() {
        let from = folder(package);
        for (owned, owners) in OWNERS {
            if package.dependencies.iter().any(|d| d.name == *owned) && !any_covers(owners, &from) {
                breaches.push(format!("{from} uses {owned}"));
            }
        }
    }
    none("crates with a sole owner", &breaches);
    for (owned, _) in OWNERS {
        let used = metadata.workspace_packages().iter().any(|p| p.dependencies.iter().any(|d| d.name == *owned));
        assert!(used, "{owned} is used nowhere: the rule has lost its object");
    }
}

#[test]
fn a_package_is_named_after_its_folder() {
    let mut breaches = Vec::new();
    for package in metadata().workspace_packages() {
        let folder = folder(package);
        let last = folder.rsplit('/').next().unwrap_or_default();
        let named = NAMED_OTHERWISE.iter().find(|(room, _)| *room == folder);
        let wanted = named.map_or_else(|| format!("jetlane-{last}"), |(_, name)| (*name).to_owned());
        if package.name.as_str() != wanted {
            breaches.push(format!("{folder} is {}, wanted {wanted}", package.name));
        }
    }
    none("folder and package by one name", &breaches);
}

#[test]
fn every_room_stands_in_the_code_map() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("there is an ARCHITECTURE.md");
    let missing: Vec<String> = metadata()
        .workspace_packages()
        .into_iter()
        .map(folder)
        .filter(|folder| !map.contains(folder.as_str()))
        .collect();
    none("rooms that ARCHITECTURE.md does not name", &missing);
}

#[test]
fn every_dependency_is_in_the_one_table() {
    let mut breaches = Vec::new();
    for package in metadata().workspace_packages() {
        let manifest = std::fs::read_to_string(&package.manifest_path).expect("a manifest is readable");
        let mut among_dependencies = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                among_dependencies = line.ends_with("dependencies]");
            } else if among_dependencies && line.contains('=') && !line.starts_with('#') && !line.contains("workspace")
            {
                breaches.push(format!("{}: {line}", folder(package)));
            }
        }
    }
    none("versions outside the root's [workspace.dependencies]", &breaches);
}

/// The feature that plants bugs in the product, for the fault suite's own test.
const MUTANTS: &str = "mutants";

#[test]
fn planted_bugs_are_compiled_for_the_fault_suite_alone() {
    let mut breaches = Vec::new();
    for package in metadata().workspace_packages() {
        let from = folder(package);
        let asks = |features: &[String]| features.iter().any(|feature| feature.split('/').any(|part| part == MUTANTS));
        if package.features.get("default").is_some_and(|features| asks(features)) {
            breaches.push(format!("{from} plants bugs by default"));
        }
        if package.dependencies.iter().any(|dependency| asks(&dependency.features)) {
            breaches.push(format!("{from} depends on a crate with planted bugs"));
        }
        let passes_on = package.features.iter().any(|(_, features)| asks(features));
        if passes_on && from != "tests/faults" {
            breaches.push(format!("a feature of {from} plants bugs"));
        }
    }
    none("ways in which planted bugs get into a build", &breaches);
    let declares = |package: &&Package| package.features.contains_key(MUTANTS);
    let declared: Vec<String> = metadata().workspace_packages().into_iter().filter(declares).map(folder).collect();
    assert_eq!(declared, ["shared/mutants", "tests/faults"], "the rule has lost its object");
}
