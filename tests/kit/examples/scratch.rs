//! scratch
use jetlane::{Executor, Task, TaskError};
use jetlane_bus::local::Options;
use jetlane_testkit::{Kit, server_with};
#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
#[derive(Serialize, Deserialize, JsonSchema)]
struct Greet { name: String }
impl Task for Greet { const TYPE: &'static str = "demo.greet"; type Output = String; }
async fn greet(task: Greet) -> Result<String, TaskError> { Ok(task.name) }
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let server = server_with(Options { monitor: Some(0), ..Options::default() }).await;
    let url = server.monitor_url().unwrap();
    let pid = server.pid().unwrap();
    let cpu = |pid: String| -> f64 { let t = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap(); let f: Vec<&str> = t.rsplit(')').next().unwrap().split_whitespace().collect(); (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) * 10_000.0 };
    let kit = Kit::on(server).await;
    kit.serve(Executor::new(kit.client(), "greeters").slots(1024).task(greet));
    let client = kit.another_client().await;
    client.submit(Greet { name: "x".into() }).await.unwrap().await.unwrap();
    let n = 60000u32;
    let curl = |what: &str| { String::from_utf8(std::process::Command::new("curl").args(["-s", &format!("{url}/{what}")]).output().unwrap().stdout).unwrap() };
    let num = |text: &str, key: &str| -> f64 { text.split(&format!("\"{key}\": ")).nth(1).unwrap().split([',','\n']).next().unwrap().parse().unwrap() };
    let a = curl("varz");
    let (sc, oc) = (cpu(pid.to_string()), cpu("self".into()));
    let t = std::time::Instant::now();
    let handles = client.submit_all((0..n).map(|i| client.submit(Greet { name: format!("{i:<180}") }))).await;
    for h in handles { h.unwrap().await.unwrap(); }
    println!("{} tasks/s", f64::from(n) / t.elapsed().as_secs_f64());
    println!("server {:.1} us/task, own {:.1} us/task", (cpu(pid.to_string()) - sc) / f64::from(n), (cpu("self".into()) - oc) / f64::from(n));
    let b = curl("varz");
    for k in ["in_msgs", "out_msgs", "in_bytes", "out_bytes"] { println!("{k} a task {:.2}", (num(&b, k) - num(&a, k)) / f64::from(n)); }
    if false { println!("{}", curl("connz?subs=1&sort=msgs_to").lines().filter(|l| l.contains("\"name\"") || l.contains("msgs") || l.contains("bytes")).collect::<Vec<_>>().join("\n")); }
    let mut floor = jetlane_bus::floor::Floor::start(&kit.url(), 1000).await.unwrap();
    let (sc, oc) = (cpu(pid.to_string()), cpu("self".into()));
    println!("floor {:.0}/s", floor.throughput(n as usize, 1000).await.unwrap());
    println!("floor: server {:.1} us/task, own {:.1} us/task", (cpu(pid.to_string()) - sc) / f64::from(n), (cpu("self".into()) - oc) / f64::from(n));
}
