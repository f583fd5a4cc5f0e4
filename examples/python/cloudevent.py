#!/usr/bin/env python3
"""Submits the same task twice, as a CloudEvent in binary and in structured mode. Needs `pip install nats-py`.

    python cloudevent.py jetlane.echo '{"a": 1}'
"""
import asyncio
import hashlib
import json
import os
import re
import sys
import uuid
from urllib.parse import quote

import nats

from submit import completion


def task_id(source, event_id):
    """The id of the task: the event's own where it is 20 to 64 of [A-Za-z0-9_-], otherwise a hash of
    source and id, since a CloudEvents id is unique for its source only."""
    if re.fullmatch(r"[A-Za-z0-9_-]{20,64}", event_id):
        return event_id
    digest = hashlib.sha256()
    for part in (source.encode(), event_id.encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return "e" + digest.hexdigest()[:40]


def event(event_id, source, **extensions):
    """The attributes of an event; extensions are Jetlane's options, such as jetlanepriority."""
    return {"specversion": "1.0", "id": event_id, "source": source, "type": "com.example.order", **extensions}


async def submit_binary(js, task_type, attributes, data):
    """Attributes are `ce-*` headers, escaped as the CloudEvents bindings say; the body is the data."""
    headers = {f"ce-{name}": quote(str(value), safe="!#$&'()*+,-./:;<=>?@[\\]^_`{|}~") for name, value in attributes.items()}
    return await js.publish(f"jetlane.submit.{task_type}", json.dumps(data).encode(), headers=headers)


async def submit_structured(js, task_type, attributes, data):
    """Attributes and data are members of one JSON object."""
    body = json.dumps({**attributes, "data": data}).encode()
    headers = {"content-type": "application/cloudevents+json"}
    return await js.publish(f"jetlane.submit.{task_type}", body, headers=headers)


async def main(task_type, data):
    nc = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    js = nc.jetstream()
    source, failed = "/orders/Zoë & co", False
    for submit in (submit_binary, submit_structured):
        for event_id in (uuid.uuid4().hex, uuid.uuid4().hex[:8]):
            await submit(js, task_type, event(event_id, source, jetlanepriority="high"), data)
            message = await completion(js, task_type, task_id(source, event_id))
            outcome = message.headers["ce-jetlaneoutcome"]
            failed |= outcome != "succeeded"
            print(submit.__name__, task_id(source, event_id), outcome, message.data.decode())
    await nc.close()
    return int(failed)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: cloudevent.py TYPE JSON")
    sys.exit(asyncio.run(main(sys.argv[1], json.loads(sys.argv[2]))))
