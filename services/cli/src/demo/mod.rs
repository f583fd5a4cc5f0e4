//! `jetlane demo`: a real job on real pictures. Every picture is one task; what its completion
//! triggers adds it to a gallery page.

pub(crate) mod gallery;
pub(crate) mod samples;
mod summary;

use crate::args::Demo;
use crate::dev::interrupted;
use crate::output::{Exit, Failure, Output};
use crate::stack::{Stack, Wanted};
use crate::traced;
use gallery::{Entry, Made, Shown};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jetlane::{Callback, Client, Completion, Outcome};
use jetlane_bus::Subscription;
use jetlane_executor::thumbnail::{Picture, Thumbnail};
use jetlane_schemas::subject;
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use summary::Summary;

/// The width of a thumbnail, in pixels.
const THUMBNAIL_WIDTH: u32 = 320;
/// Where the completions of this demo go: the callback service publishes them here.
const GALLERY_SUBJECT: &str = "demo.gallery";
/// How long nothing may happen before the demo gives up.
const STALL: Duration = Duration::from_secs(60);
/// The most pictures of one demo.
const PICTURES_MAX: usize = 10_000;
/// In plain lines, progress is told every so many pictures.
const LINES: usize = 10;

/// Thumbnails a folder and tells how it went.
pub(crate) async fn run(demo: &Demo, output: &Output) -> Result<Exit, Failure> {
    let guard = traced::start("demo")?;
    let folders = Folders::make(demo)?;
    let pictures = folders.pictures()?;
    let slots = std::thread::available_parallelism().map_or(2, usize::from);
    let wanted = Wanted {
        variables: vec![
            ("JETLANE_EXECUTOR_SLOTS", slots.to_string()),
            ("JETLANE_EXECUTOR_PICTURES_ROOT", folders.root().display().to_string()),
            ("JETLANE_LOG", "error".into()),
            ("JETLANE_CALLBACK_SUBJECTS", format!("[{GALLERY_SUBJECT:?}]")),
        ],
        name: "jetlane-demo",
        ..Wanted::default()
    };
    let mut stack = Stack::start(wanted).await?;
    let begun = Instant::now();
    let client = stack.client.clone();
    let job = job(&client, &folders, &pictures);
    let done = tokio::select! {
        done = job => done,
        (part, how) = stack.broken() => Err(Failure::new(Exit::Error, format!("{part} has ended: {how}"))),
        () = interrupted() => Err(Failure::new(Exit::Interrupted, "interrupted")),
    };
    let took = begun.elapsed();
    let done = match done {
        Ok(done) => done,
        Err(failure) => {
            stack.stop().await;
            return Err(failure);
        }
    };
    stack.stop().await;
    let trace_id = done.completions.values().find_map(|done| done.trace.trace_id().map(str::to_owned));
    let exports = guard.exports();
    guard.shutdown().await;
    let summary = Summary::of(&pictures, &done, took, &folders.page(), trace_id.filter(|_| exports));
    if demo.json || output.is_json() {
        Output::new(crate::args::Format::Json).json(&summary);
    } else {
        println!("{}", summary.table());
    }
    Ok(if summary.all_went_through() { Exit::Ok } else { Exit::Error })
}

/// Where pictures come from and where thumbnails go.
struct Folders {
    input: PathBuf,
    gallery: PathBuf,
}

impl Folders {
    fn make(demo: &Demo) -> Result<Self, Failure> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |error: std::io::Error| Failure::new(Exit::Error, format!("the folder {path} cannot be used: {error}"))
        };
        let gallery = demo.gallery.clone().unwrap_or_else(|| std::env::temp_dir().join("jetlane-demo"));
        std::fs::create_dir_all(gallery.join("thumbnails")).map_err(failed(&gallery))?;
        let gallery = gallery.canonicalize().map_err(failed(&gallery))?;
        let input = match &demo.input {
            Some(input) => input.canonicalize().map_err(failed(input))?,
            None => {
                let samples = gallery.join("samples");
                std::fs::create_dir_all(&samples).map_err(failed(&samples))?;
                eprintln!("Making sample pictures in {} (--input DIR takes your own).", samples.display());
                samples::write(&samples).map_err(failed(&samples))?;
                samples
            }
        };
        Ok(Self { input, gallery })
    }

    /// Every file of the input folder: what is no picture becomes a failed task with a reason.
    fn pictures(&self) -> Result<Vec<PathBuf>, Failure> {
        let failed = |error| Failure::new(Exit::Error, format!("{} cannot be read: {error}", self.input.display()));
        let mut pictures = Vec::new();
        for entry in std::fs::read_dir(&self.input).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_file() {
                pictures.push(path);
            }
        }
        pictures.sort();
        if pictures.is_empty() || pictures.len() > PICTURES_MAX {
            let text = format!("{} has {} files, wanted 1 to {PICTURES_MAX}", self.input.display(), pictures.len());
            return Err(Failure::new(Exit::Usage, text));
        }
        Ok(pictures)
    }

    /// The folder that holds both: the demo's executor reads and writes beneath it only.
    fn root(&self) -> &Path {
        self.gallery.ancestors().find(|folder| self.input.starts_with(folder)).unwrap_or(Path::new("/"))
    }

    fn page(&self) -> PathBuf {
        self.gallery.join("index.html")
    }
}

/// What came of all pictures.
pub(crate) struct Done {
    /// Completions by task id.
    pub(crate) completions: BTreeMap<String, Completion>,
    /// How many callbacks reached the gallery.
    pub(crate) callbacks: usize,
}

async fn job(client: &Client, folders: &Folders, pictures: &[PathBuf]) -> Result<Done, Failure> {
    let failed = |error: jetlane_bus::Error| Failure::of(Exit::Error, &error);
    let mut added = client.bus().subscribe(GALLERY_SUBJECT).await.map_err(failed)?;
    let submits = pictures.iter().map(|path| {
        let task = Thumbnail {
            path: path.display().to_string(),
            width: THUMBNAIL_WIDTH,
            output: Some(folders.gallery.join("thumbnails").display().to_string()),
        };
        client.submit(task).callback(Callback::Subject { subject: GALLERY_SUBJECT.into() })
    });
    let mut names = BTreeMap::new();
    let mut handles = Vec::with_capacity(pictures.len());
    for (path, handle) in pictures.iter().zip(client.submit_all(submits).await) {
        let handle = handle?;
        names.insert(handle.id().to_string(), file_name(path));
        handles.push(handle);
    }
    let bar = Progress::new(pictures.len());
    let mut done = Done { completions: BTreeMap::new(), callbacks: 0 };
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    while entries.len() < names.len() {
        let completion = next_callback(&mut added).await?;
        let id = completion.id.to_string();
        let Some(name) = names.get(&id) else { continue };
        bar.tell(name, &completion);
        if entries.insert(id, entry(name, &completion, &folders.gallery)).is_none() {
            done.callbacks += 1;
            let shown: Vec<Entry> = entries.values().cloned().collect();
            write_page(&folders.page(), &shown)?;
        }
    }
    for mut handle in handles {
        let completion = handle.completion().await?;
        done.completions.insert(completion.id.to_string(), completion);
    }
    bar.end();
    Ok(done)
}

/// What the callback service publishes is the completion itself: its subject is in the id and type.
async fn next_callback(added: &mut Subscription) -> Result<Completion, Failure> {
    let stalled = || {
        Failure::new(Exit::TimedOut, format!("no picture was added for {} s", STALL.as_secs()))
            .help("JETLANE_LOG=debug tells what the services do.")
    };
    let message = tokio::time::timeout(STALL, added.next()).await.map_err(|_| stalled())?;
    let message = message.ok_or_else(|| Failure::new(Exit::Unreachable, "the connection was closed"))?;
    let named = |name| message.headers.get(name).unwrap_or_default();
    let subject = format!(
        "{}{}.{}",
        subject::DONE_ALL.trim_end_matches('>'),
        named(jetlane_schemas::header::TASK_TYPE),
        named(jetlane_schemas::header::TASK_ID)
    );
    Completion::from_message(&subject, &message.headers, &message.body)
        .map_err(|error| Failure::of(Exit::Error, &error))
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn entry(name: &str, completion: &Completion, gallery: &Path) -> Entry {
    let shown = match completion.failure() {
        Some(failure) => Shown::Failed { reason: failure.message },
        None => match serde_json::from_slice::<Picture>(&completion.body) {
            Ok(picture) => Shown::Made(Made {
                thumbnail: relative(&picture.thumbnail, gallery),
                width: picture.width,
                height: picture.height,
                original_width: picture.original_width,
                original_height: picture.original_height,
                format: picture.format,
                dominant_color: picture.dominant_color,
            }),
            Err(error) => Shown::Failed { reason: error.to_string() },
        },
    };
    Entry {
        name: name.to_owned(),
        duration: Duration::from_secs_f64(completion.run_ms.max(0.0) / 1_000.0),
        attempts: completion.attempt,
        shown,
    }
}

fn relative(file: &str, gallery: &Path) -> String {
    Path::new(file).strip_prefix(gallery).map_or_else(|_| file.to_owned(), |path| path.to_string_lossy().into_owned())
}

fn write_page(page: &Path, entries: &[Entry]) -> Result<(), Failure> {
    std::fs::write(page, gallery::render(entries))
        .map_err(|error| Failure::new(Exit::Error, format!("{} cannot be written: {error}", page.display())))
}

/// A bar on a terminal, plain lines elsewhere.
struct Progress {
    bar: ProgressBar,
    total: usize,
}

impl Progress {
    fn new(total: usize) -> Self {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} pictures  {elapsed}  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, total }
    }

    fn tell(&self, name: &str, completion: &Completion) {
        self.bar.inc(1);
        self.bar.set_message(name.to_owned());
        if let Some(failure) = completion.failure() {
            self.line(&format!("{name} {}: {}", completion.outcome, failure.message));
        }
        let done = usize::try_from(self.bar.position()).unwrap_or(usize::MAX);
        if self.bar.is_hidden() && done.is_multiple_of((self.total / LINES).max(1)) {
            eprintln!("{done}/{} pictures", self.total);
        }
    }

    fn line(&self, text: &str) {
        if self.bar.is_hidden() {
            eprintln!("{text}");
        } else {
            self.bar.println(text);
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// Whether a completion is a success.
fn succeeded(completion: &Completion) -> bool {
    completion.outcome == Outcome::Succeeded
}
