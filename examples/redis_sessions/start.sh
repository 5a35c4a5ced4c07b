#!/bin/sh
# Starts the chat. Without REDIS_URL it gets a Redis of its own, which goes when it stops.
set -eu
cd "$(dirname "$0")"
export CHAINLIT_AUTH_SECRET="${CHAINLIT_AUTH_SECRET:-$(openssl rand -hex 32)}"
export CHAT_USERS="${CHAT_USERS:-ada=secret,bob=secret}"

if [ -z "${REDIS_URL:-}" ]; then
    command -v redis-server >/dev/null || {
        echo "no Redis here: install it (Debian: redis-server), or set REDIS_URL" >&2
        exit 1
    }
    data=$(mktemp -d)
    stop() {
        [ ! -e "$data/pid" ] || kill "$(cat "$data/pid")"
        rm -rf "$data"
    }
    trap stop EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    redis-server --port 0 --unixsocket "$data/socket" --dir "$data" --save "" \
        --daemonize yes --pidfile "$data/pid" >/dev/null
    export REDIS_URL="unix://$data/socket"
fi

chainlit run app.py "$@"
