#!/usr/bin/env python3
"""Drives Celery on Redis: late acks, a worker with prefetch in processes of its own, results awaited.

Run by itself it is the driver, which starts `celery worker` on this same file as the application.
"""

import os
import pathlib
import subprocess
import sys

from celery import Celery

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "measure"))
import measure  # noqa: E402  (beside this folder)

PROCESSES = 2
PREFETCH_A_PROCESS = 100
# Submitted ahead of the results that are waited for.
WINDOW = 2000
RESULT_WITHIN_S = 60

app = Celery("drive", broker=os.environ["PEER_URL"], backend=os.environ["PEER_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=PREFETCH_A_PROCESS,
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop_task(number, padding):
    """Does nothing, and returns its number."""
    del padding
    return number


def submit(number):
    return noop_task.apply_async(kwargs=measure.noop(number))


def run_one(number):
    return submit(number).get(timeout=RESULT_WITHIN_S)


def run_many(numbers):
    waiting, heard = [], []

    def hear():
        heard.extend(result.get(timeout=RESULT_WITHIN_S) for result in waiting)
        waiting.clear()

    for number in numbers:
        waiting.append(submit(number))
        if len(waiting) >= WINDOW:
            half = waiting[: WINDOW // 2]
            heard.extend(result.get(timeout=RESULT_WITHIN_S) for result in half)
            del waiting[: WINDOW // 2]
    hear()
    return heard


def main():
    command = [sys.executable, "-m", "celery", "--app", "drive", "--workdir", str(pathlib.Path(__file__).parent), "worker",
               "--pool", "prefork", "--concurrency", str(PROCESSES), "--loglevel", "ERROR", "--without-gossip",
               "--without-mingle", "--without-heartbeat"]
    with subprocess.Popen(command, stdout=sys.stderr) as worker:
        try:
            measure.run(run_one, run_many, f"apply_async, at most {WINDOW} ahead; prefork of {PROCESSES}, prefetch "
                        f"{PREFETCH_A_PROCESS} each, acks_late; results awaited in Redis")
        finally:
            worker.kill()


if __name__ == "__main__":
    main()
