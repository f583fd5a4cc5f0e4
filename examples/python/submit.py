#!/usr/bin/env python3
"""Submits a task by publishing plain JSON, and waits for its completion. Needs `pip install nats-py`.

    python submit.py jetlane.echo '{"a": 1}'
"""
import asyncio
import os
import sys

import nats


async def completion(js, task_type, task_id, timeout=60):
    """Waits for the one terminal record of a task, whether it is stored already or still to come.

    A consumer of DONE, not a core subscription: what the stream refused is no completion.
    """
    done = await js.subscribe(f"jetlane.done.{task_type}.{task_id}", stream="JETLANE_DONE", ordered_consumer=True)
    try:
        return await done.next_msg(timeout=timeout)
    finally:
        await done.unsubscribe()


async def main(task_type, body):
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    js = nc.jetstream()
    ack = await js.publish(f"jetlane.submit.{task_type}", body.encode())  # acknowledged: it is stored
    task_id = f"s{ack.seq}"  # the id of a task that was published without one
    print(f"submitted {task_id}", file=sys.stderr)
    message = await completion(js, task_type, task_id)
    outcome = message.headers["ce-jetlaneoutcome"]
    print(outcome, message.data.decode())
    await nc.close()
    return 0 if outcome == "succeeded" else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: submit.py TYPE JSON")
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2])))
