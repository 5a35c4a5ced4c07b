#!/bin/sh
# One process for each worker: chats on ports 8000, 8001, …, metrics on 9464, 9465, …
set -eu
workers=${WORKERS:-2}
chat=${CHAT_PORT:-8000}
metrics=${METRICS_PORT:-9464}

pids=
stop() { kill -TERM $pids 2>/dev/null || true; }
trap stop TERM INT

worker=0
while [ "$worker" -lt "$workers" ]; do
    OTEL_EXPORTER_PROMETHEUS_PORT=$((metrics + worker)) \
        chainlit run app.py --headless --port $((chat + worker)) &
    pids="$pids $!"
    worker=$((worker + 1))
done

# A signal interrupts the first wait; then each worker ends its sessions and exports them.
for pid in $pids; do wait "$pid" || true; done
for pid in $pids; do wait "$pid" 2>/dev/null || true; done
