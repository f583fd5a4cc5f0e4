"""Checks a parsed compose file against the project: check_compose.py COMPOSE_JSON ROOT.

What a parser cannot know: that files, roles and dependencies exist, that nothing but loopback is
published, and that images are pinned.
"""
import json
import os
import sys

OUR_IMAGE = "jetlane:local"
# Settings that every service reads and that belong to no section.
COMMON_VARIABLES = {"JETLANE_CONFIG", "JETLANE_LOG", "JETLANE_LOG_FORMAT"}


def environment(service):
    given = service.get("environment", {})
    return dict(pair.split("=", 1) for pair in given) if isinstance(given, list) else given


def breaches_of(name, service, services, root, volumes):
    image = service.get("image", "")
    tag = image.rpartition(":")[2]
    if image != OUR_IMAGE and (":" not in image or tag == "latest"):
        yield f"image {image!r} has no version"
    for port in service.get("ports", []):
        host = port.get("host_ip") if isinstance(port, dict) else port.partition(":")[0]
        if host != "127.0.0.1":
            yield f"publishes {port} beyond loopback"
    for volume in service.get("volumes", []):
        source = volume["source"] if isinstance(volume, dict) else volume.partition(":")[0]
        path = os.path.join(root, "deploy", source)
        if source not in volumes and not os.path.exists(path):
            yield f"mounts {source}, which does not exist"
    for other in service.get("depends_on", {}):
        if other not in services:
            yield f"depends on {other}, which is no service"
        elif "healthcheck" not in services[other]:
            yield f"waits for the health of {other}, which has no healthcheck"
    if image == OUR_IMAGE:
        yield from breaches_of_role(name, service, services, root)


def breaches_of_role(name, service, services, root):
    build = service["build"]
    dockerfile = os.path.join(root, "deploy", build["context"], build["dockerfile"])
    if not os.path.isfile(dockerfile):
        yield f"is built from {dockerfile}, which does not exist"
    command = service["command"]
    if command[0] == "run":
        # One word: the service, its folder, its role and its variables.
        if command[1] != name or not os.path.isdir(os.path.join(root, "services", name)):
            yield f"runs {command[1]}, which is not services/{name}"
        if f"JETLANE_{name.upper()}_HEALTH_PORT" not in environment(service):
            yield "says no health port"
        if "healthcheck" not in service:
            yield "has no healthcheck"
    sections = {"NATS", *(folder.upper() for folder in os.listdir(os.path.join(root, "services")))}
    for variable in environment(service):
        # A variable that nobody reads is a knob without effect.
        section = variable.removeprefix("JETLANE_").partition("_")[0]
        is_read = variable in COMMON_VARIABLES or (variable.startswith("JETLANE_") and section in sections)
        if not is_read and not variable.startswith(("NATS_", "OTEL_")):
            yield f"sets {variable}, which no service reads"
    for variable in ("NATS_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        value = environment(service).get(variable, "")
        host = value.rpartition("//")[2].partition(":")[0]
        if host not in services:
            yield f"{variable}={value!r} names no service"


def main(parsed, root):
    with open(parsed) as file:
        compose = json.load(file)
    services = compose["services"]
    volumes = compose.get("volumes", {})
    breaches = [
        f"compose.yaml: {name} {breach}"
        for name, service in services.items()
        for breach in breaches_of(name, service, services, root, volumes)
    ]
    missing = {"nats", "jaeger", "dispatcher", "executor", "callback"} - set(services)
    breaches += [f"compose.yaml: {name} is missing" for name in sorted(missing)]
    for breach in breaches:
        print(breach, file=sys.stderr)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
