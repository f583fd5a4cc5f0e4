#!/usr/bin/env python3
"""Runs `jetlane bench pipeline --json` and turns it into two lines: Jetlane's, and the bare broker's.

The bench measures both in turns and reports the best of each; here the median of the turns counts, since
the peers have no best of several either. The bare broker has the better of its settings.
"""

import json
import os
import statistics
import subprocess
import sys


def main():
    jetlane, tasks = os.environ["PEER_JETLANE"], os.environ["PEER_TASKS"]
    command = [jetlane, "bench", "pipeline", "--tasks", tasks, "--open-loop-seconds", "0", "--json"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
    if not ran.stdout.strip():
        sys.exit(f"jetlane bench pipeline printed nothing (status {ran.returncode})")
    report = json.loads(ran.stdout)
    latency, handler, turns = report["latency_ms"], report["handler_ms"], report["turns"]
    floors = {}
    for turn in turns:
        floors.setdefault(json.dumps(turn.get("in_flight")), []).append(turn["floor"]["tasks_per_s"])
    setting, floor = max(((setting, statistics.median(rates)) for setting, rates in floors.items()), key=lambda it: it[1])
    shared = {"tasks": report["tasks"], "latency_until": "result", "hears_result": True, "rounds_inside": len(turns)}
    ours = {
        "peer": "jetlane",
        "tasks_per_s": statistics.median(turn["tasks_per_s"] for turn in turns),
        "best_tasks_per_s": report["tasks_per_s"],
        "p50_ms": latency["p50"],
        "p99_ms": latency["p99"],
        "lost": report["lost"],
        "doubled": report["duplicates"],
        "settings": f"submit_all and every handle awaited; dispatcher, executor and client in one process; median of "
        f"{len(turns)} turns; until the handler {handler['p50']:.2f} ms, p99 {handler['p99']:.2f}",
    }
    broker = {
        "peer": "bare-broker",
        "tasks_per_s": floor,
        "best_tasks_per_s": report["floor_tasks_per_s"],
        "p50_ms": latency["floor_p50"],
        "p99_ms": latency["floor_p99"],
        "lost": 0,
        "doubled": 0,
        "settings": f"three hops through bare JetStream, {setting} publishes in flight; median of "
        f"{len(floors[setting])} turns",
    }
    for line in (ours, broker):
        print(json.dumps(shared | line))


if __name__ == "__main__":
    main()
