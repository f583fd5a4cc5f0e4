#!/usr/bin/env bash
# The open door by the Node client: open_door_node.sh PATH_OF_SUBMIT_MJS, with NATS_URL set.
set -euo pipefail
submit="$1"

fail() { printf 'node: %s\n' "$*" >&2; exit 1; }

# Plain JSON with no header is a task, and its completion is received.
said="$(node "$submit" jetlane.echo '{"a":1}')" || fail "exit $? for a task that succeeds: $said"
[[ "$said" == 'succeeded {"a":1}' ]] || fail "expected 'succeeded {\"a\":1}', got: $said"

# A body that is no JSON is rejected.
if said="$(node "$submit" jetlane.echo '{"a":')"; then fail "exit 0 for a body that is no JSON: $said"; fi
[[ "$said" == rejected* ]] || fail "expected a rejection, got: $said"
echo "node: ok"
