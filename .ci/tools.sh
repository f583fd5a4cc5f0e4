#!/usr/bin/env bash
# Sourced by the project's scripts: where tools come from, and where they are kept.
#
# Everything goes into JETLANE_CACHE (default ~/.cache/jetlane), once, under a name that holds its
# version, and comes into its place by a rename, so that an interrupted install is never found.

export JETLANE_CACHE="${JETLANE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/jetlane}"
mkdir -p "$JETLANE_CACHE/bin"

say() { printf '%s\n' "$*" >&2; }

# Installs one package of PyPI, such as nats-py==2.16.0, into a folder of its own, and prints the folder.
from_pip() {
    local folder="$JETLANE_CACHE/pip-$1" temporary
    if [[ ! -d "$folder" ]]; then
        temporary="$(mktemp -d "$JETLANE_CACHE/pip.XXXXXX")"
        # --target is allowed where the system's Python is externally managed.
        if ! python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
            --target "$temporary/it" "$1" >&2; then
            rm -rf "$temporary"
            return 1
        fi
        # Where another process was faster, its folder is as good.
        mv -T "$temporary/it" "$folder" 2>/dev/null || [[ -d "$folder" ]]
        rm -rf "$temporary"
    fi
    printf '%s\n' "$folder"
}

# Installs one command by `go install PACKAGE@VERSION` as NAME, and prints its path: from_go NAME PACKAGE@VERSION.
from_go() {
    local program="$JETLANE_CACHE/bin/$1-${2##*@}" temporary
    if [[ ! -x "$program" ]]; then
        temporary="$(mktemp -d "$JETLANE_CACHE/go.XXXXXX")"
        if ! GOBIN="$temporary/bin" go install "$2" 2>"$temporary/log"; then
            tail -n 20 "$temporary/log" >&2
            rm -rf "$temporary"
            return 1
        fi
        mv "$temporary/bin/"* "$program"
        rm -rf "$temporary"
    fi
    printf '%s\n' "$program"
}
