#!/usr/bin/env bash
# Sourced by run.sh: how each peer is installed into the cache folder, and how its driver is run.
#
# For a peer NAME (dashes as underscores): `store_NAME` says which store it needs, `version_NAME` which
# version it is, `install_NAME` installs it, and `drive_NAME` runs the driver, which prints one line of
# JSON. The environment tells a driver what to do: PEER_URL, PEER_TASKS, PEER_LATENCY_TASKS,
# PEER_VARIANT, PEER_MODULES. `tasks_max_NAME` bounds the tasks of a slow one, `power_cut_NAME` tells what
# the store does not.
# shellcheck disable=SC2034,SC2154  # The names are put together in run.sh, which also sets `here` and `jetlane`.

# In this order they run; Jetlane comes first, in the middle and last besides.
readonly PEERS=(chasquimq-results chasquimq apalis-nats apalis-nats-work-queue apalis-redis graphile-worker river
    bullmq awa asynq restate celery temporal)

readonly peers_folder="$JETLANE_CACHE/peers"

# Installs packages of npm into a folder of their own: from_npm PACKAGE@VERSION...
from_npm() {
    local name="$*" folder temporary
    folder="$peers_folder/npm-${name//[\/@ ]/_}"
    command -v npm >/dev/null || { say "no npm"; return 1; }
    if [[ ! -d "$folder" ]]; then
        temporary="$(mktemp -d "$peers_folder/npm.XXXXXX")"
        if ! npm install --silent --no-fund --no-audit --prefix "$temporary" "$@" >&2; then
            rm -rf "$temporary"
            return 1
        fi
        mv -T "$temporary" "$folder" 2>/dev/null || rm -rf "$temporary"
    fi
    printf '%s\n' "$folder"
}

# Installs a package of PyPI with all that it needs into a folder of its own: from_pip_whole PACKAGE==VERSION.
from_pip_whole() {
    local folder="$peers_folder/pip-${1//[\[\]]/_}" temporary
    if [[ ! -d "$folder" ]]; then
        temporary="$(mktemp -d "$peers_folder/pip.XXXXXX")"
        if ! python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
            --target "$temporary/it" "$1" >&2; then
            rm -rf "$temporary"
            return 1
        fi
        mv -T "$temporary/it" "$folder" 2>/dev/null || true
        rm -rf "$temporary"
    fi
    printf '%s\n' "$folder"
}

# Builds the crate in a peer's folder, with the versions of versions.sh: from_cargo PEER.
from_cargo() {
    local folder="$peers_folder/crate-$1" line name
    command -v cargo >/dev/null || { say "no cargo"; return 1; }
    mkdir -p "$folder"
    while IFS= read -r line; do
        line="${line//@DRIVER@/$here/$1/drive.rs}"
        for name in AWA CHASQUIMQ APALIS APALIS_REDIS APALIS_NATS ASYNC_NATS SERDE TOKIO; do
            local version="${name}_VERSION"
            line="${line//@$version@/${!version}}"
        done
        printf '%s\n' "$line"
    done <"$here/$1/Cargo.toml.in" >"$folder/Cargo.toml"
    CARGO_TARGET_DIR="$peers_folder/target" cargo build --quiet --release --manifest-path "$folder/Cargo.toml" >&2
}

# Builds a peer's Go driver in a module of its own: from_go_module PEER PACKAGE@VERSION...
from_go_module() {
    local folder="$peers_folder/module-$1" peer="$1"
    shift
    command -v go >/dev/null || { say "no go"; return 1; }
    mkdir -p "$folder/measure"
    cp "$here/$peer/drive.go" "$folder/"
    cp "$here/measure/measure.go" "$folder/measure/"
    (
        cd "$folder"
        if [[ ! -f go.mod ]]; then go mod init drive; fi
        go get "$@" && go mod tidy && go build -o "$peers_folder/drive-$peer" .
    ) >"$folder/log" 2>&1 || { tail -n 5 "$folder/log" >&2; return 1; }
}

version_jetlane() { "$jetlane" --version | awk '{ print $2 }'; }
store_jetlane=own
install_jetlane() { [[ -x "$jetlane" ]] || { say "no $jetlane: run cargo build --release, or name one by --jetlane"; return 1; }; }
drive_jetlane() { PEER_JETLANE="$jetlane" python3 "$here/jetlane/drive.py"; }

version_chasquimq() { printf '%s\n' "$CHASQUIMQ_VERSION"; }
store_chasquimq=redis
install_chasquimq() { redis_at_least 8.6 && from_cargo chasquimq; }
drive_chasquimq() { "$peers_folder/target/release/drive-chasquimq"; }

version_chasquimq_results() { version_chasquimq; }
store_chasquimq_results=redis
install_chasquimq_results() { install_chasquimq; }
drive_chasquimq_results() { PEER_VARIANT=results drive_chasquimq; }

version_apalis_nats() { printf '%s\n' "$APALIS_NATS_VERSION"; }
store_apalis_nats=nats
install_apalis_nats() { from_cargo apalis-nats; }
drive_apalis_nats() { "$peers_folder/target/release/drive-apalis-nats"; }
power_cut_apalis_nats="up to the last two minutes; publishes are never confirmed"

version_apalis_nats_work_queue() { version_apalis_nats; }
store_apalis_nats_work_queue=nats
install_apalis_nats_work_queue() { install_apalis_nats; }
drive_apalis_nats_work_queue() { PEER_VARIANT=work-queue drive_apalis_nats; }
power_cut_apalis_nats_work_queue="$power_cut_apalis_nats"

version_apalis_redis() { printf '%s\n' "$APALIS_REDIS_VERSION"; }
store_apalis_redis=redis
install_apalis_redis() { from_cargo apalis-redis; }
drive_apalis_redis() { "$peers_folder/target/release/drive-apalis-redis"; }

version_graphile_worker() { printf '%s\n' "$GRAPHILE_WORKER_VERSION"; }
store_graphile_worker=postgres
install_graphile_worker() { from_npm "graphile-worker@$GRAPHILE_WORKER_VERSION"; }
drive_graphile_worker() { PEER_MODULES="$(install_graphile_worker)" node "$here/graphile-worker/drive.cjs"; }

version_river() { printf '%s\n' "${RIVER_VERSION#v}"; }
store_river=postgres
install_river() {
    local package=github.com/riverqueue/river
    from_go_module river "$package@$RIVER_VERSION" "$package/riverdriver/riverpgxv5@$RIVER_VERSION"
}
drive_river() { "$peers_folder/drive-river"; }

version_bullmq() { printf '%s\n' "$BULLMQ_VERSION"; }
store_bullmq=redis
install_bullmq() { from_npm "bullmq@$BULLMQ_VERSION" "ioredis@$IOREDIS_VERSION"; }
drive_bullmq() { PEER_MODULES="$(install_bullmq)" node "$here/bullmq/drive.cjs"; }

version_awa() { printf '%s\n' "$AWA_VERSION"; }
store_awa=postgres
install_awa() { from_cargo awa; }
drive_awa() { "$peers_folder/target/release/drive-awa"; }

version_asynq() { printf '%s\n' "${ASYNQ_VERSION#v}"; }
store_asynq=redis
install_asynq() { from_go_module asynq "github.com/hibiken/asynq@$ASYNQ_VERSION"; }
drive_asynq() { "$peers_folder/drive-asynq"; }

version_restate() { printf '%s\n' "$RESTATE_VERSION"; }
store_restate=folder
tasks_max_restate=20000
power_cut_restate="nothing that was confirmed, as documented"
install_restate() {
    from_npm "@restatedev/restate-server@$RESTATE_VERSION" "@restatedev/restate-sdk@$RESTATE_SDK_VERSION"
}
drive_restate() {
    local modules server
    modules="$(install_restate)" || return 1
    server="$(find "$modules/node_modules/@restatedev" -type f -name restate-server -perm -u+x | head -n 1)"
    [[ -n "$server" ]] || { say "the package has no restate-server for this machine"; return 1; }
    PEER_MODULES="$modules" PEER_SERVER="$server" PEER_FOLDER="$PEER_URL" node "$here/restate/drive.cjs"
}

version_celery() { printf '%s\n' "$CELERY_VERSION"; }
store_celery=redis
tasks_max_celery=20000
install_celery() { from_pip_whole "celery[redis]==$CELERY_VERSION"; }
drive_celery() {
    local packages
    packages="$(install_celery)" || return 1
    PYTHONPATH="$packages" PYTHONDONTWRITEBYTECODE=1 python3 "$here/celery/drive.py"
}

version_temporal() { printf '%s\n' "${TEMPORAL_VERSION#v}"; }
store_temporal=folder
tasks_max_temporal=1000
power_cut_temporal="nothing that was confirmed, as SQLite is documented"
install_temporal() {
    from_go temporal "github.com/temporalio/cli/cmd/temporal@$TEMPORAL_VERSION" &&
        from_go_module temporal "go.temporal.io/sdk@$TEMPORAL_SDK_VERSION"
}
drive_temporal() {
    local port
    port="$(free_port)"
    "$JETLANE_CACHE/bin/temporal-$TEMPORAL_VERSION" server start-dev --ip 127.0.0.1 --port "$port" --headless \
        --db-filename "$PEER_URL/temporal.db" --log-level error >&2 </dev/null &
    PEER_URL="127.0.0.1:$port" "$peers_folder/drive-temporal"
}
