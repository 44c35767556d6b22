#!/bin/sh
# Starts the backup agent: what systemd, cron or init calls. It is no part of a release: it goes back to the release
# before when a new one does not start. See agents/program/agent/update.py for the files.
set -u
programs=$(cd "$(dirname "$0")" && pwd)

guard() {
    [ -f "$programs/trial" ] || return 0
    read -r number previous starts < "$programs/trial" || return 0
    case "$number$previous$starts" in *[!0-9]* | '') return 0 ;; esac
    if [ "$starts" -ge 3 ] && [ -d "$programs/releases/$previous" ]; then
        # One that a killed run left is no reason to stay with a release that does not start.
        ln -sfn "releases/$previous" "$programs/.current.guard" &&
            mv -T "$programs/.current.guard" "$programs/current" &&
            echo "$number" > "$programs/failed" &&
            rm -f "$programs/trial"
        return 0
    fi
    echo "$number $previous $((starts + 1))" > "$programs/.trial.guard" && mv "$programs/.trial.guard" "$programs/trial"
}

# `run.sh once`: whoever called starts it again (systemd). Without: this script does.
guard
if [ "${1:-}" = once ]; then
    exec "$programs/current/bin/backupsite-agent" daemon
fi
child=
ended=
trap 'ended=1; [ -n "$child" ] && kill -TERM "$child"' TERM INT
while [ -z "$ended" ]; do
    "$programs/current/bin/backupsite-agent" daemon &
    child=$!
    wait "$child"
    code=$?
    # A signal ends `wait`, not the program.
    [ -n "$ended" ] && wait "$child"
    # 2 and 3: nothing gets better by trying again. 8: another one runs.
    case $code in 2 | 3 | 8) exit "$code" ;; esac
    [ -n "$ended" ] && break
    [ "$code" -eq 75 ] || sleep 10
    guard
done
