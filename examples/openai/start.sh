#!/bin/sh
# Starts the chat. Without OPENAI_API_KEY it asks a stub of the API, which goes when it stops.
set -eu
cd "$(dirname "$0")"

if [ -z "${OPENAI_API_KEY:-}" ]; then
    port="${STUB_PORT:-8009}"
    python -m chainlit_otel.testing.models --port "$port" &
    stub=$!
    trap 'kill "$stub"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    export OPENAI_API_KEY=none OPENAI_BASE_URL="http://localhost:$port/v1"
fi

chainlit run app.py "$@"
