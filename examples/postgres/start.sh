#!/bin/sh
# Starts the chat. Without DATABASE_URL it gets a PostgreSQL of its own, which goes when it stops.
set -eu
cd "$(dirname "$0")"
export CHAINLIT_AUTH_SECRET="${CHAINLIT_AUTH_SECRET:-$(openssl rand -hex 32)}"

if [ -z "${DATABASE_URL:-}" ]; then
    # Debian keeps the programs of each version out of the PATH.
    for bin in /usr/lib/postgresql/*/bin; do PATH="$PATH:$bin"; done
    command -v initdb >/dev/null || {
        echo "no PostgreSQL here: install it (Debian: postgresql), or set DATABASE_URL" >&2
        exit 1
    }
    data=$(mktemp -d)
    # PostgreSQL refuses to run as root.
    user=""
    [ "$(id -u)" -ne 0 ] || {
        user="setpriv --reuid postgres --regid postgres --clear-groups"
        chown postgres "$data"
    }
    postgres() { (cd "$data" && $user "$@" >/dev/null); }
    stop() {
        postgres pg_ctl -D "$data/db" -m fast stop 2>/dev/null || true
        rm -rf "$data"
    }
    trap stop EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    postgres initdb -D "$data/db" -U chat -A trust --no-sync
    postgres pg_ctl -D "$data/db" -l "$data/log" -w \
        -o "-c listen_addresses='' -c unix_socket_directories='$data'" start
    export DATABASE_URL="postgresql:///postgres?host=$data&user=chat"
fi

chainlit run app.py "$@"
