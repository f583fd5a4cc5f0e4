"""The open door by nats-py: submit, CloudEvents, and a task type served by the example consumer.

Needs NATS_URL of a running `jetlane dev` and nats-py on the path; tests/languages/run.sh sees to both.
"""
import asyncio
import json
import os
import pathlib
import subprocess
import sys
import unittest
import uuid

import nats

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples" / "python"
sys.path.insert(0, str(EXAMPLES))
from cloudevent import event, submit_binary, submit_structured, task_id  # noqa: E402
from submit import completion  # noqa: E402

URL = os.environ["NATS_URL"]
WAIT_S = 60


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments], capture_output=True, text=True, timeout=4 * WAIT_S
    )


async def until(what, condition):
    """Asks the broker until the answer is true; WAIT_S bounds it."""

    async def asked():
        while not (answer := await condition()):
            await asyncio.sleep(0.02)
        return answer

    try:
        return await asyncio.wait_for(asked(), WAIT_S)
    except asyncio.TimeoutError:
        raise AssertionError(f"waited {WAIT_S} s for {what}") from None


class Connected(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.nc = await nats.connect(URL)
        self.js = self.nc.jetstream()

    async def asyncTearDown(self):
        await self.nc.close()

    async def submit(self, task_type, body, headers=None):
        ack = await self.js.publish(f"jetlane.submit.{task_type}", body, headers=headers)
        return f"s{ack.seq}"


class Submitting(Connected):
    def test_the_example_submits_and_prints_the_completion(self):
        ran = run("submit.py", "jetlane.echo", '{"a": 1}')
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertTrue(ran.stdout.startswith("succeeded "), ran.stdout)
        self.assertEqual(json.loads(ran.stdout.removeprefix("succeeded ")), {"a": 1})

    def test_the_example_of_cloud_events_succeeds_in_both_modes(self):
        ran = run("cloudevent.py", "jetlane.echo", '{"a": 1}')
        self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
        self.assertEqual(ran.stdout.count("succeeded"), 4)

    async def test_a_subscriber_of_the_type_hears_of_it(self):
        heard = await self.nc.subscribe("jetlane.done.jetlane.echo.*")
        task = await self.submit("jetlane.echo", b'{"n": 7}')
        while True:
            message = await heard.next_msg(timeout=WAIT_S)
            if message.subject.endswith(f".{task}"):
                break
        self.assertEqual(message.headers["ce-jetlaneoutcome"], "succeeded")
        self.assertEqual(json.loads(message.data), {"n": 7})

    async def test_both_modes_of_one_cloud_event_are_one_task(self):
        attributes, data = event(uuid.uuid4().hex[:6], "/orders/Zoë"), {"n": 1}
        await submit_binary(self.js, "jetlane.echo", attributes, data)
        task = task_id(attributes["source"], attributes["id"])
        first = await completion(self.js, "jetlane.echo", task, WAIT_S)
        await submit_structured(self.js, "jetlane.echo", attributes, data)
        # A later task has gone through, so the second mode's has been dealt with, and the record stands.
        await completion(self.js, "jetlane.echo", await self.submit("jetlane.echo", b"{}"), WAIT_S)
        again = await self.js.get_last_msg("JETLANE_DONE", f"jetlane.done.jetlane.echo.{task}")
        self.assertEqual(again.seq, first.metadata.sequence.stream)

    async def test_an_option_out_of_range_and_a_body_that_is_no_json_are_rejected_with_a_reason(self):
        for body, headers, word in (
            (b'{"a":', None, "json"),
            (b"{}", {"ce-jetlanepriority": "urgent"}, "priority"),
        ):
            task = await self.submit("jetlane.echo", body, headers)
            message = await completion(self.js, "jetlane.echo", task, WAIT_S)
            self.assertEqual(message.headers["ce-jetlaneoutcome"], "rejected")
            failure = json.loads(message.data)
            self.assertIn(word, (failure["code"] + " " + failure["message"]).lower())


class Serving(Connected):
    """The example consumer, started as a user would."""

    LANE = "lane-texts-normal-any"

    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.server = self.start()
        await until("the lane", self.lane)

    async def asyncTearDown(self):
        self.stop()
        await super().asyncTearDown()

    def start(self):
        return subprocess.Popen([sys.executable, EXAMPLES / "serve.py"])

    def stop(self):
        self.server.kill()
        self.server.wait()

    async def lane(self):
        try:
            return await self.js.consumer_info("JETLANE_LANES", self.LANE)
        except nats.js.errors.NotFoundError:
            return None

    async def completes(self, body, wait=WAIT_S):
        return await self.completed(await self.submit("text.upper", json.dumps(body).encode()), wait)

    async def completed(self, task, wait):
        message = await completion(self.js, "text.upper", task, wait)
        # The ack follows the completion; a consumer that is ended between them leaves another delivery.
        await until("the ack", self.settled)
        return message.headers["ce-jetlaneoutcome"], json.loads(message.data)

    async def settled(self):
        return (await self.lane()).num_ack_pending == 0

    async def test_it_serves_a_task_and_settles_it(self):
        self.assertEqual(await self.completes({"text": "hi"}), ("succeeded", {"text": "HI"}))

    async def test_a_task_that_it_cannot_do_fails_with_a_reason_and_is_not_repeated(self):
        before = (await self.lane()).delivered.consumer_seq
        outcome, failure = await self.completes({"txt": "hi"})
        self.assertEqual(outcome, "failed")
        self.assertIn("text", failure["message"])
        self.assertEqual((await self.lane()).delivered.consumer_seq, before + 1)

    async def test_a_task_longer_than_the_lease_runs_once(self):
        lane = await self.lane()
        seconds = 1.2 * lane.config.ack_wait
        self.assertEqual(
            await self.completes({"text": "slow", "seconds": seconds}, seconds + WAIT_S), ("succeeded", {"text": "SLOW"})
        )
        self.assertEqual((await self.lane()).delivered.consumer_seq, lane.delivered.consumer_seq + 1)

    async def test_a_task_of_a_killed_consumer_is_done_by_the_next(self):
        task = await self.submit("text.upper", b'{"text": "twice", "seconds": 1}')

        async def held():
            return (await self.lane()).num_ack_pending == 1

        await until("the task in hand", held)
        self.stop()
        self.server = self.start()
        lease = (await self.lane()).config.ack_wait
        self.assertEqual(await self.completed(task, lease + WAIT_S), ("succeeded", {"text": "TWICE"}))


if __name__ == "__main__":
    unittest.main(verbosity=2)
