#!/usr/bin/env bash
# Becomes a Jaeger on loopback, in memory, with the real UI; it ends when this process is ended.
#
#   tests/jaeger/start.sh [OTLP_HTTP_PORT [QUERY_PORT [OTLP_GRPC_PORT [QUERY_GRPC_PORT]]]]
#
# Defaults: 4318 16686 4317 16685. A port that is 0, or left out while an earlier one is given, is
# chosen among the free ones. The first line on stdout says where it is, as JSON:
#   {"otlp_http":"http://127.0.0.1:4318","query":"http://127.0.0.1:16686","otlp_grpc":"http://127.0.0.1:4317"}
# It is said before the ports are open: poll GET {query}/api/v3/services until it answers.
# Where there is neither Jaeger nor Go it says 'skipped' on stderr and exits 0 without that line.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
jaeger="$("$here/build.sh")"
if [[ -z "$jaeger" ]]; then exit 0; fi

ports=("$@")
if ((${#ports[@]} == 0)); then
    ports=(4318 16686 4317 16685)
fi
while ((${#ports[@]} < 4)); do ports+=(0); done
if [[ " ${ports[*]} " == *" 0 "* ]]; then
    # All at once, so that no two are the same.
    mapfile -t free < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*(s.getsockname()[1] for s in held), sep="\n")')
    for i in 0 1 2 3; do
        if [[ "${ports[i]}" == 0 ]]; then ports[i]="${free[i]}"; fi
    done
fi
export JAEGER_OTLP_HTTP_PORT="${ports[0]}" JAEGER_QUERY_PORT="${ports[1]}"
export JAEGER_OTLP_GRPC_PORT="${ports[2]}" JAEGER_QUERY_GRPC_PORT="${ports[3]}"
ui="$(dirname "$jaeger")/ui"
if [[ -f "$ui/index.html" ]]; then export JAEGER_UI_ASSETS="$ui"; fi
# Jaeger would trace itself, and send that to whoever listens on 4317.
unset "${!OTEL_@}"
export OTEL_TRACES_SAMPLER=always_off
printf '{"otlp_http":"http://127.0.0.1:%s","query":"http://127.0.0.1:%s","otlp_grpc":"http://127.0.0.1:%s"}\n' "${ports[@]:0:3}"
exec "$jaeger" --config "$here/config.yaml"
