#!/bin/sh
# Installs what the tests need beyond Python packages, where it is missing; with names of commands,
# only those.
set -eu

wanted="$*"

missing=""
need() { # need COMMAND PACKAGE
    case " ${wanted:-$1} " in *" $1 "*) ;; *) return 0 ;; esac
    command -v "$1" >/dev/null || missing="$missing $2"
}
need amtool prometheus-alertmanager
need chromium chromium
need kubectl kubernetes-client
need nginx nginx-light
need npm npm
need prometheus prometheus
need prometheus-alertmanager prometheus-alertmanager
need promtool prometheus
need redis-server redis-server
need valgrind valgrind
# Debian keeps the programs of PostgreSQL out of the PATH.
ls /usr/lib/postgresql/*/bin/pg_ctl >/dev/null 2>&1 || need pg_ctl postgresql

[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "error: install these by hand and see that they are on the PATH:$missing" >&2
    exit 1
fi

if [ "$(id -u)" -eq 0 ]; then
    as_root="env"
elif command -v sudo >/dev/null; then
    as_root="sudo env"
else
    echo "error: run this as root: apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

apt() {
    # shellcheck disable=SC2086 # two words on purpose
    $as_root DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null
}

# The tests start servers of their own: those of the packages must not start.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    trap '$as_root rm -f "$policy"' EXIT
fi

echo "installing:$missing" >&2
# The package lists may be absent or out of date, which only an attempt shows.
# shellcheck disable=SC2086 # several packages on purpose
apt install --yes --no-install-recommends $missing >/dev/null 2>&1 || {
    apt update
    apt install --yes --no-install-recommends $missing >/dev/null
}
