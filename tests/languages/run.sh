#!/usr/bin/env bash
# The open door, tried by other languages: nats-py, the Node client and the real `nats` command.
#
#   tests/languages/run.sh [python|node|nats]...     all three where none is named
#
# Runs against NATS_URL where that is set, otherwise against a `jetlane dev` that it starts itself
# (JETLANE, default target/release/jetlane) and ends again. Clients are installed once, into the
# cache folder (JETLANE_CACHE, default ~/.cache/jetlane). A language that is absent is 'skipped'.
# Ends with a line 'languages: N passed, N failed, N skipped' and fails if anything failed.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
# shellcheck source=.ci/tools.sh
source "$root/.ci/tools.sh"
jetlane="${JETLANE:-$root/target/release/jetlane}"
readonly NATS_CLI_VERSION=v0.5.1
# How long `jetlane dev` may take until it says where it listens, in tenths of a second.
readonly READY_TENTHS_MAX=600

passed=0 failed=0 skipped=0
skip() { say "$1: skipped ($2)"; skipped=$((skipped + 1)); }
work="$(mktemp -d "$JETLANE_CACHE/languages.XXXXXX")"
dev=
finish() {
    if [[ -n "$dev" ]]; then kill "$dev" 2>/dev/null || true; wait "$dev" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

# Starts `jetlane dev` on free ports; its first line on stdout is JSON with the address in "nats".
start_dev() {
    [[ -x "$jetlane" ]] || { say "no $jetlane: run cargo build --release first"; exit 1; }
    # Before the process in the background makes it: it is read at once.
    : >"$work/dev.out"
    env -u NATS_URL "$jetlane" dev --port 0 >"$work/dev.out" 2>"$work/dev.err" </dev/null &
    dev=$!
    local tenths
    for ((tenths = 0; tenths < READY_TENTHS_MAX; tenths++)); do
        NATS_URL="$(sed -n '1s/.*"nats": *"\([^"]*\)".*/\1/p' "$work/dev.out")"
        if [[ -n "$NATS_URL" ]]; then
            export NATS_URL
            say "jetlane dev: $NATS_URL"
            return
        fi
        kill -0 "$dev" 2>/dev/null || { say "jetlane dev ended:"; cat "$work/dev.out" "$work/dev.err" >&2; exit 1; }
        sleep 0.1
    done
    say "jetlane dev did not say its address:"
    cat "$work/dev.out" "$work/dev.err" >&2
    exit 1
}

# Runs one language's test.
try() {
    local name="$1"
    shift
    say "== $name"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        say "$name: FAILED"
        if [[ -f "$work/dev.err" ]]; then tail -n 40 "$work/dev.err" >&2; fi
    fi
}

# Where an install fails although the language is there, that is a failure, not a skip.
run_python() {
    command -v python3 >/dev/null || { skip python "no python3"; return; }
    python3 -m pip --version >/dev/null 2>&1 || { skip python "no pip"; return; }
    local client
    client="$(from_pip "$(cat "$root/examples/python/requirements.txt")")"
    export PYTHONPATH="$client" PYTHONDONTWRITEBYTECODE=1
    try "python, fixtures" python3 "$root/tests/languages/fixtures.py"
    try "python, open door" python3 "$root/tests/languages/open_door.py"
    unset PYTHONPATH
}

run_node() {
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
        skip node "no node or npm"
        return
    fi
    # Modules are looked up beside the script, so the example is copied to where they are.
    local home
    home="$JETLANE_CACHE/node-$(cksum <"$root/examples/node/package.json" | cut -d' ' -f1)"
    if [[ ! -d "$home" ]]; then
        mkdir "$work/node"
        cp "$root/examples/node/package.json" "$work/node/"
        (cd "$work/node" && npm install --silent --no-audit --no-fund >&2)
        mv "$work/node" "$home" 2>/dev/null || [[ -d "$home" ]]
    fi
    cp "$root/examples/node/submit.mjs" "$home/submit.mjs"
    try "node, open door" bash "$root/tests/languages/open_door_node.sh" "$home/submit.mjs"
}

run_nats() {
    local nats
    nats="$(command -v nats || true)"
    if [[ -z "$nats" ]]; then
        command -v go >/dev/null || { skip nats "neither nats nor go"; return; }
        say "nats: installing the command (about two minutes, once) ..."
        nats="$(from_go nats "github.com/nats-io/natscli/nats@$NATS_CLI_VERSION")"
    fi
    # A context of the user's own must not lead the test elsewhere.
    try "nats, open door" env XDG_CONFIG_HOME="$work/config" bash "$root/tests/languages/open_door_nats.sh" "$nats"
}

languages=("$@")
if ((${#languages[@]} == 0)); then languages=(python node nats); fi
for language in "${languages[@]}"; do
    case "$language" in
        python | node | nats) ;;
        *) say "usage: run.sh [python|node|nats]..."; exit 64 ;;
    esac
done
if [[ -z "${NATS_URL:-}" ]]; then start_dev; fi
for language in "${languages[@]}"; do "run_$language"; done
printf 'languages: %d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
((failed == 0))
