#!/usr/bin/env python3
"""Serves the task type `text.upper`, queue `texts`, by nats-py alone. Ctrl-C ends it. `pip install nats-py`."""
import asyncio, contextlib, json, os, nats
from nats.js.errors import APIError, KeyWrongLastSequenceError, NotFoundError

TYPE, QUEUE = "text.upper", "texts"
WRONG_LAST_SEQUENCE = 10071  # the completion's subject is taken: another run was first

async def upper(task):
    await asyncio.sleep(task.get("seconds", 0))
    return {"text": task["text"].upper()}

async def complete(js, task, outcome, body):
    """Stores the one terminal record of the task; the server refuses a second one."""
    headers = {k: v for k, v in task.headers.items() if k.lower().startswith(("ce-jetlane", "trace"))}
    headers |= {"ce-jetlaneoutcome": outcome, "Nats-Expected-Last-Subject-Sequence": "0"}
    try:
        await js.publish(f"jetlane.done.{TYPE}.{headers['ce-jetlaneid']}", json.dumps(body).encode(), headers=headers)
    except APIError as refused:
        if refused.err_code != WRONG_LAST_SEQUENCE:
            raise

async def extend(task, lease):
    while True:  # in-progress acks keep the task ours, however long it runs
        await asyncio.sleep(lease / 3)
        await task.in_progress()

async def run(js, task, lane):
    heart = asyncio.create_task(extend(task, lane.ack_wait))
    try:
        await complete(js, task, "succeeded", await upper(json.loads(task.data)))
    except Exception as error:
        hopeless = isinstance(error, (ValueError, TypeError, KeyError, AttributeError))
        if not hopeless and task.metadata.num_delivered < lane.max_deliver:
            return await task.nak(delay=1)  # another attempt, in a second
        await complete(js, task, "failed", {"code": "handler", "message": repr(error)})
    finally:
        heart.cancel()
    await task.ack_sync()  # last: a crash before this line means another delivery, never a loss

async def serve(js, priority):
    name, lane = f"lane-{QUEUE}-{priority}-any", None
    while lane is None:  # the dispatcher makes the lane once the queue is announced
        with contextlib.suppress(NotFoundError):
            lane = (await js.consumer_info("JETLANE_LANES", name)).config
        await asyncio.sleep(0.1)
    pull = await js.pull_subscribe_bind(name, stream="JETLANE_LANES")
    while True:
        with contextlib.suppress(nats.errors.TimeoutError):  # nothing to do
            await run(js, (await pull.fetch(1, timeout=10))[0], lane)

async def main():
    js = (await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))).jetstream()
    registry = await js.key_value("jetlane_registry")
    for key, value in ((f"queues.{QUEUE}", {}), (f"types.{TYPE}", {"queue": QUEUE})):
        with contextlib.suppress(KeyWrongLastSequenceError):  # announced before: what was set since then stays
            await registry.create(key, json.dumps(value).encode())
    await asyncio.gather(*(serve(js, p) for p in ("critical", "high", "normal", "low")))

asyncio.run(main())
