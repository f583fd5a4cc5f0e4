"""The golden fixtures of the contract, read by Python: a client here and the dispatcher there must name a
submission by the same id. Needs no broker; tests/languages/run.sh runs it.
"""
import base64
import json
import pathlib
import sys
import unittest
from urllib.parse import unquote

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "python"))
from cloudevent import task_id  # noqa: E402


def body_of(fixture):
    return base64.b64decode(fixture["body_base64"]) if "body_base64" in fixture else fixture["body"].encode()


def structured(body):
    """Source and id of an event in structured mode, malformed or not, where they can be read as text."""
    try:
        event = json.loads(body)
    except ValueError:
        return "", ""
    if not isinstance(event, dict):
        return "", ""
    source, event_id = event.get("source", ""), event.get("id", "")
    if any(isinstance(value, (dict, list)) for value in (source, event_id)):
        return "", ""
    return str(source), str(event_id)


def id_of(fixture):
    """The id of a submission, by the rules in schemas/README.md."""
    headers = {}
    for name, value in fixture["headers"]:
        headers.setdefault(name.lower(), value)
    if headers.get("content-type", "").lstrip().lower().startswith("application/cloudevents"):
        source, event_id = structured(body_of(fixture))
    else:
        source, event_id = unquote(headers.get("ce-source", "")), unquote(headers.get("ce-id", ""))
    return task_id(source, event_id) if event_id else f"s{fixture['stream_sequence']}"


class Fixtures(unittest.TestCase):
    def test_every_submission_gets_the_id_that_the_contract_says(self):
        compared = 0
        for path in sorted((ROOT / "schemas" / "fixtures").glob("*.json")):
            fixture = json.loads(path.read_text(encoding="utf-8"))
            told = fixture["expect"].get("task") or fixture["expect"].get("refusal")
            if fixture["kind"] == "submission" and told and "id" in told:
                with self.subTest(path.name):
                    self.assertEqual(id_of(fixture), told["id"])
                compared += 1
        self.assertGreater(compared, 10, "the fixtures have moved")


if __name__ == "__main__":
    unittest.main()
