"""The golden fixtures of the contract, read by Python: a client here and the dispatcher there must name a
submission by the same id. Needs no broker; tests/languages/run.sh runs it.
"""
import base64
import hashlib
import json
import pathlib
import sys
import unicodedata
import unittest
from urllib.parse import unquote

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "python"))
from cloudevent import task_id  # noqa: E402

KEY_BYTES_MAX = 256


def body_of(fixture):
    return base64.b64decode(fixture["body_base64"]) if "body_base64" in fixture else fixture["body"].encode()


def structured(body):
    """The attributes of an event in structured mode, malformed or not, where they can be read as text."""
    try:
        event = json.loads(body)
    except ValueError:
        return {}
    if not isinstance(event, dict):
        return {}
    if any(isinstance(event.get(name), (dict, list)) for name in ("source", "id")):
        return {}
    return {name: str(value) for name, value in event.items() if not isinstance(value, (dict, list))}


def id_of_key(task_type, tenant, key):
    """The id of a task with a key and no id of its own: the same key of the same type and tenant is the same task."""
    digest = hashlib.sha256()
    for part in (task_type.encode(), tenant.encode(), key.encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return "k" + digest.hexdigest()[:40]


def is_key(key):
    """Whether a key is one: 1 to 256 bytes without control characters."""
    return 0 < len(key.encode()) <= KEY_BYTES_MAX and all(unicodedata.category(c) != "Cc" for c in key)


def id_of(fixture):
    """The id of a submission, by the rules in schemas/README.md."""
    headers = {}
    for name, value in fixture["headers"]:
        headers.setdefault(name.lower(), value)
    if headers.get("content-type", "").lstrip().lower().startswith("application/cloudevents"):
        attributes = structured(body_of(fixture))
    else:
        attributes = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
    if attributes.get("id"):
        return task_id(attributes.get("source", ""), attributes["id"])
    if is_key(attributes.get("jetlanekey", "")):
        tenant = attributes.get("jetlanetenant", attributes.get("partitionkey", ""))
        return id_of_key(fixture["subject"].removeprefix("jetlane.submit."), tenant, attributes["jetlanekey"])
    return f"s{fixture['stream_sequence']}"


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
