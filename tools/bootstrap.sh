#!/usr/bin/env bash
# Makes .venv from a lock file; does nothing when it is there already. Needs Python 3.11 or newer and nothing else.
#   tools/bootstrap.sh requirements.lock | requirements-dev.lock
set -euo pipefail
cd "$(dirname "$0")/.."
lock=${1:-requirements.lock}
stamp=.venv/.installed-$lock
log=.venv/install.log

fail() { echo "not started: $*" >&2; exit 2; }

find_python() {
    local name
    for name in ${PYTHON:-} python3.11 python3 python3.12 python3.13 python3.14; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    fail "Python 3.11 or newer is needed and was not found; install it, or name it: PYTHON=/path/to/python3.11 make demo"
}

ensure_venv_module() {
    local python=$1 wanted
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    wanted=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "this Python cannot make virtual environments; install it as root: apt-get install $wanted"
    fi
    echo "  ...     installing $wanted, which this Python lacks"
    tools/apt-install.sh "$wanted" || fail "$wanted could not be installed; install it as root: apt-get install $wanted"
}

healthy() { .venv/bin/python -c 'import pip' 2>/dev/null; }

checksum=$(sha256sum "$lock" | cut -d' ' -f1)
if healthy && [ "$(cat "$stamp" 2>/dev/null)" = "$checksum" ]; then
    exit 0
fi

if ! healthy; then
    python=$(find_python)
    ensure_venv_module "$python"
    echo "  ...     making the virtual environment with $("$python" --version)"
    "$python" -m venv --clear .venv
fi

total=$(grep -c '^[a-zA-Z0-9].*==' "$lock")
echo "  ...     installing $total packages from $lock (once; a few minutes)"
if ! .venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off --require-hashes -r "$lock" 2>&1 \
    | tee "$log" \
    | awk -v total="$total" -v terminal="$([ -t 1 ] && echo 1 || echo 0)" '
        /^(Collecting|Requirement already satisfied)/ { if (terminal) printf "\r  ...     %d of %d  ", ++seen, total; fflush() }
        /^Installing collected/ { if (terminal) printf "\r  ...     unpacking    "; fflush() }
        END { if (terminal) printf "\r                         \r" }'; then
    tail -n 15 "$log" >&2
    fail "the packages of $lock could not be installed; the whole output is in $log"
fi

echo "$checksum" > "$stamp"
if [ "$lock" = requirements-dev.lock ]; then
    # The development lock holds all of the other one.
    sha256sum requirements.lock | cut -d' ' -f1 > .venv/.installed-requirements.lock
fi
echo "  ok      packages of $lock"
