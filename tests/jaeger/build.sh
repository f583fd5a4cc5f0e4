#!/usr/bin/env bash
# Builds the real Jaeger once, from its published Go module, with the real UI, into the cache folder.
#
# Prints the path of the binary on stdout and nothing else there; talk goes to stderr. Where Jaeger
# is already found, by JAEGER or as `jaeger` on PATH, prints that. Where there is neither Jaeger nor
# Go it says 'skipped' on stderr, prints no path and exits 0.
#
# Needs: go 1.24 or newer, python3; cargo for the UI (without it the pages are placeholders, the
# query API is whole). Two cores: about four minutes, once.
set -euo pipefail

# The newest version that the module proxy serves; its cmd/jaeger is Jaeger v2. Tags v2.x are no
# valid versions of a module path without /v2.
readonly JAEGER_VERSION=v1.76.0
# Carries the production build of Jaeger UI 2.14.1 in its folder jaeger-ui/build.
readonly UI_CRATE=otlp-embedded
readonly UI_VERSION=0.0.2

# shellcheck source=.ci/tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../.ci/tools.sh"
home="$JETLANE_CACHE/jaeger-$JAEGER_VERSION"

if [[ -n "${JAEGER:-}" ]]; then
    [[ -x "$JAEGER" ]] || { say "JAEGER=$JAEGER is no program"; exit 64; }
    printf '%s\n' "$JAEGER"
    exit 0
fi

# The UI, by way of cargo's own download: a throw-away manifest that nothing ever compiles.
fetch_ui() {
    command -v cargo >/dev/null || { say "Jaeger UI: skipped (no cargo)"; return 0; }
    local manifest="$work/ui/Cargo.toml"
    mkdir -p "$work/ui/src"
    printf '[package]\nname = "ui"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n[dependencies]\n%s = "=%s"\n' \
        "$UI_CRATE" "$UI_VERSION" >"$manifest"
    : >"$work/ui/src/lib.rs"
    local found
    found="$(cargo metadata --format-version 1 --quiet --manifest-path "$manifest" | python3 -c '
import json, os, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == sys.argv[1]:
        print(os.path.join(os.path.dirname(package["manifest_path"]), "jaeger-ui", "build"))
' "$UI_CRATE")" || { say "Jaeger UI: skipped ($UI_CRATE could not be fetched)"; return 0; }
    [[ -f "$found/index.html" ]] || { say "Jaeger UI: skipped (not in $UI_CRATE $UI_VERSION)"; return 0; }
    cp -R "$found" "$work/ui-assets"
}

# `go install` is refused because of a `replace` in Jaeger's go.mod; building inside the downloaded
# module uses its own go.sum and works.
build() {
    local module
    module="$(cd "$work" && go mod download -json "github.com/jaegertracing/jaeger@$JAEGER_VERSION" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')"
    (cd "$module" && GOFLAGS=-mod=readonly go build -trimpath -ldflags='-s -w' -o "$work/jaeger" ./cmd/jaeger) \
        >"$work/go.log" 2>&1 || { tail -n 40 "$work/go.log" >&2; return 1; }
}

# One builder at a time; the others wait and find what it made.
exec 9>"$JETLANE_CACHE/jaeger.lock"
if command -v flock >/dev/null; then flock 9; fi

if [[ ! -x "$home/jaeger" ]]; then
    if command -v jaeger >/dev/null; then
        command -v jaeger
        exit 0
    fi
    if ! command -v go >/dev/null; then
        say "Jaeger: skipped (neither jaeger nor go is on PATH)"
        exit 0
    fi
    say "Jaeger: building $JAEGER_VERSION into $home (about four minutes, once) ..."
    # Beside its final place, so that the rename at the end is atomic.
    work="$(mktemp -d "$JETLANE_CACHE/jaeger-build.XXXXXX")"
    trap 'rm -rf "$work"' EXIT
    build
    fetch_ui
    mkdir "$work/done"
    mv "$work/jaeger" "$work/done/jaeger"
    if [[ -d "$work/ui-assets" ]]; then mv "$work/ui-assets" "$work/done/ui"; fi
    rm -rf "$home"
    mv "$work/done" "$home"
fi
printf '%s\n' "$home/jaeger"
