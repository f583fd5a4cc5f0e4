#!/usr/bin/env bash
# Takes the picture of a trace that stands in the README: the task of the test that asks Jaeger (one
# that fails once, is retried and calls back), as the Jaeger UI shows it.
#
#   tests/jaeger/picture.sh [FILE]        default docs/pictures/trace.png
#
# Needs: what tests/jaeger/start.sh needs, cargo, and Chromium (CHROMIUM, or `chromium` on PATH; in
# Debian the package chromium). Where there is no Jaeger or no Chromium it says 'skipped' and exits 0.
set -euo pipefail

# In the pixels of the page: all spans of the trace, and what is read beside them.
readonly WIDTH=1600 HEIGHT=740
# How long the page may take to load and draw, in milliseconds of its own clock.
readonly DRAWN_WITHIN=15000
readonly TEST=trace::jaeger_finds_the_trace_by_its_id_and_by_every_service

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
picture="$(realpath -m "${1:-$root/docs/pictures/trace.png}")"
# shellcheck source=.ci/tools.sh
source "$root/.ci/tools.sh"

chromium="${CHROMIUM:-$(command -v chromium || true)}"
[[ -n "$chromium" ]] || { say "picture: skipped (no chromium on PATH)"; exit 0; }

work="$(mktemp -d)"
jaeger=
finish() {
    if [[ -n "$jaeger" ]]; then kill "$jaeger" 2>/dev/null || true; fi
    rm -rf "$work"
}
trap finish EXIT

JAEGER="$("$here/build.sh")"
[[ -n "$JAEGER" ]] || { say "picture: skipped (no Jaeger)"; exit 0; }
export JAEGER
mkfifo "$work/places"
"$here/start.sh" 0 >"$work/places" &
jaeger=$!
read -r places <"$work/places"
place() { python3 -c 'import json, sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$places" "$1"; }
JAEGER_URL="$(place query)"
JAEGER_OTLP_URL="$(place otlp_http)"
export JAEGER_URL JAEGER_OTLP_URL

# The test waits until Jaeger has the whole trace, and says where its page is.
(cd "$root" && cargo test --quiet --package jetlane-system --test system -- --exact "$TEST" --nocapture) \
    >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
page="$(sed -n 's/^trace: //p' "$work/log")"
[[ -n "$page" ]] || { cat "$work/log" >&2; say "the test told of no trace"; exit 1; }

mkdir -p "$(dirname "$picture")"
# Nothing but the page: no profile, no look-ups of the browser's own. Without a sandbox, since in a
# container there may be none to have; the page is ours.
"$chromium" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --hide-scrollbars --user-data-dir="$work/profile" \
    --window-size="$WIDTH,$HEIGHT" --virtual-time-budget="$DRAWN_WITHIN" --screenshot="$work/trace.png" \
    "$page" >"$work/chromium.log" 2>&1 || { tail -n 20 "$work/chromium.log" >&2; exit 1; }
mv "$work/trace.png" "$picture"
say "$page is $picture ($(stat -c %s "$picture") bytes)"
