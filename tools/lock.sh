#!/usr/bin/env bash
# Writes both lock files anew from pyproject.toml, with the hash of every file; run it after changing a dependency.
# What is locked already stays at its version; `tools/lock.sh --upgrade` takes the newest ones.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" install -q --disable-pip-version-check uv

compile() {
    local output=$1
    shift
    "$tools/venv/bin/uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-emit-index-url --extra embedded --extra postgres --output-file "$output" "$@"
}

compile requirements.lock "$@"
compile requirements-dev.lock --group dev --constraint requirements.lock "$@"
