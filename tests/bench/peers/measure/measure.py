"""What every Python driver measures with: numbered tasks, percentiles, and one line of JSON."""

import json
import math
import os
import time

BODY_BYTES = 200
FRAME_BYTES = len('{"number":,"padding":""}')
# Tasks that only warm up: connections, scripts, caches.
WARM_UP_TASKS = 200


def noop(number):
    """A task that does nothing, as 200 bytes of JSON."""
    return {"number": number, "padding": "x" * max(0, BODY_BYTES - FRAME_BYTES - len(str(number)))}


def run(run_one, run_many, settings):
    """Warms up, measures latency one at a time, then throughput, and prints the line.

    `run_one(number)` submits and waits for the result; `run_many(numbers)` submits all, waits for all
    results, and returns the numbers that came back.
    """
    run_many(range(WARM_UP_TASKS))
    first = WARM_UP_TASKS + int(os.environ["PEER_LATENCY_TASKS"])
    latencies = []
    for number in range(WARM_UP_TASKS, first):
        begun = time.perf_counter()
        run_one(number)
        latencies.append(time.perf_counter() - begun)
    latencies.sort()
    numbers = range(first, first + int(os.environ["PEER_TASKS"]))
    begun = time.perf_counter()
    heard = run_many(numbers)
    took = time.perf_counter() - begun
    lost = len(set(numbers) - set(heard))

    def at(share):
        return latencies[max(0, math.ceil(len(latencies) * share) - 1)] * 1000

    outcome = {"tasks": len(numbers), "tasks_per_s": (len(numbers) - lost) / took, "p50_ms": at(0.5), "p99_ms": at(0.99),
               "latency_until": "result", "hears_result": True, "lost": lost, "doubled": len(heard) - len(set(heard)),
               "settings": settings}
    print(json.dumps(outcome), flush=True)
