#!/usr/bin/env bash
# The open door by the real `nats` command: open_door_nats.sh PATH_OF_NATS, with NATS_URL set.
set -euo pipefail
nats="$1"
readonly WAIT_S=60

fail() { printf 'nats: %s\n' "$*" >&2; exit 1; }

# Publishes a body and prints the sequence that the stream gave it.
submit() {
    local said
    said="$("$nats" -s "$NATS_URL" pub -J "$@" 2>&1)" || fail "publish refused: $said"
    sed -n 's/.*Stored in Stream: JETLANE_TASKS Sequence: \([0-9]*\).*/\1/p' <<<"$said"
}

# Prints the completion of a task, headers and body, whether it is stored already or still to come.
completion() {
    timeout "$WAIT_S" "$nats" -s "$NATS_URL" sub "jetlane.done.$1.$2" --stream JETLANE_DONE --all --count 1 2>/dev/null ||
        fail "no completion of $2 within $WAIT_S s"
}

contains() {
    grep -qiF -- "$2" <<<"$1" || fail "expected '$2' in:
$1"
}

# Plain JSON with no header is a task.
sequence="$(submit jetlane.submit.jetlane.echo '{"a":1}')"
[[ -n "$sequence" ]] || fail "the publish said no sequence"
said="$(completion jetlane.echo "s$sequence")"
contains "$said" 'ce-jetlaneoutcome: succeeded'
contains "$said" '{"a":1}'

# A body that is no JSON is rejected, and nothing waits for ever.
sequence="$(submit jetlane.submit.jetlane.echo '{"a":')"
contains "$(completion jetlane.echo "s$sequence")" 'ce-jetlaneoutcome: rejected'

# A CloudEvent in binary mode keeps its own id.
id="order-$(date +%s%N)-$$-abcdefgh"
submit jetlane.submit.jetlane.echo '{"b":2}' -H ce-specversion:1.0 -H "ce-id:$id" -H ce-source:/orders \
    -H ce-type:com.example.order -H ce-jetlanepriority:high >/dev/null
said="$(completion jetlane.echo "$id")"
contains "$said" 'ce-jetlaneoutcome: succeeded'
contains "$said" '{"b":2}'
echo "nats: ok"
