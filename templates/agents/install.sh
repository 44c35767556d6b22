#!/bin/sh
# Installs the backup agent on this server, enrols it and starts it.
#
#   curl -fsS PORTAL/agent/install.sh | sh -s -- TOKEN
#   curl -fsS PORTAL/agent/install.sh | sh -s -- --ask
#   curl -fsS PORTAL/agent/install.sh | sh -s -- --uninstall [--purge]
#
# TOKEN works once and for a short time; without one the program is installed and not enrolled. While the first line runs
# every user of the server can see it in the list of processes: --ask reads it from the terminal, and the environment
# variable BACKUPSITE_TOKEN counts where there is none in the line. --purge wipes the keys too; backups stay in the vault
# in any case. Needs root, curl or wget, tar and sha256sum, and nothing from elsewhere.
set -eu

URL=@URL@
DOWNLOAD=@DOWNLOAD@
SHA256=@SHA256@
NUMBER=@NUMBER@

# For trying it out below one directory.
PREFIX=${BACKUPSITE_AGENT_PREFIX:-}
PROGRAMS=$PREFIX/opt/backupsite-agent
CONFIG=$PREFIX/etc/backupsite-agent
STATE=$PREFIX/var/lib/backupsite-agent
UNIT=$PREFIX/etc/systemd/system/backupsite-agent.service
CRON=$PREFIX/etc/cron.d/backupsite-agent
LINK=$PREFIX/usr/local/sbin/backupsite-agent

say() { printf '%s\n' "backupsite-agent: $*"; }
fail() {
    printf '%s\n' "backupsite-agent: $*" >&2
    exit 1
}
has() { command -v "$1" > /dev/null 2>&1; }
has_systemd() { [ -d "$PREFIX/run/systemd/system" ] && has systemctl; }
agent() {
    if [ -n "$PREFIX" ]; then
        "$PROGRAMS/current/bin/backupsite-agent" --home "$PREFIX/home" "$@"
    else
        "$PROGRAMS/current/bin/backupsite-agent" "$@"
    fi
}

# Of run.sh, where there is no systemd. The number in the file may be another program's by now: as root that is not killed.
running_pid() {
    pid=$(cat "$STATE/run.pid" 2> /dev/null) || return 1
    case $pid in '' | *[!0-9]*) return 1 ;; esac
    [ -r "/proc/$pid/cmdline" ] || return 1
    case " $(tr '\0' ' ' < "/proc/$pid/cmdline") " in
        *" $PROGRAMS/run.sh "*) echo "$pid" ;;
        *) return 1 ;;
    esac
}

is_service_on() {
    if has_systemd; then
        systemctl is-enabled --quiet backupsite-agent.service 2> /dev/null ||
            systemctl is-active --quiet backupsite-agent.service 2> /dev/null
    else
        running_pid > /dev/null
    fi
}

# Until the next start of it or of the system.
stop_service() {
    if has_systemd; then
        systemctl stop backupsite-agent.service > /dev/null 2>&1 || true
    elif found=$(running_pid); then
        kill "$found" 2> /dev/null || true
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            running_pid > /dev/null || break
            sleep 1
        done
    fi
}

run_without_systemd() {
    mkdir -p "$STATE"
    setsid "$PROGRAMS/run.sh" > /dev/null 2>&1 < /dev/null &
    echo $! > "$STATE/run.pid"
}

# However an installation ends, what ran before it runs after it.
finish() {
    [ -z "$work" ] || rm -rf "$work"
    if [ -d "$release.old" ] && [ ! -d "$release" ]; then mv "$release.old" "$release" || true; fi
    [ -n "$stopped" ] || return 0
    if has_systemd; then
        systemctl start backupsite-agent.service || true
    else
        run_without_systemd
    fi
    say "the agent that was here before runs again"
}

not_as_package() {
    if has dpkg-query && dpkg-query -W -f '${Status}' backupsite-agent 2> /dev/null | grep -q '^install ok installed'; then
        fail "the agent is here as a package: use apt-get install ./FILE.deb for a newer one, or apt-get remove (or purge) it."
    fi
}

uninstall() {
    not_as_package
    stop_service
    if has_systemd; then systemctl disable backupsite-agent.service > /dev/null 2>&1 || true; fi
    if [ -x "$PROGRAMS/current/bin/backupsite-agent" ] && [ "${1:-}" = --purge ]; then
        agent unenrol --purge || say "the keys could not be wiped by the program; they are removed as files"
    fi
    rm -f "$UNIT" "$CRON" "$LINK"
    if has_systemd; then systemctl daemon-reload; fi
    rm -rf "$PROGRAMS"
    if [ "${1:-}" = --purge ]; then
        rm -rf "$STATE" "$CONFIG"
        say "removed, with its keys. Backups stay in the vault."
    else
        say "removed. Keys and configuration are still in $STATE and $CONFIG; --purge removes them too."
    fi
}

download() {
    if has curl; then
        curl -fsS --proto '=https,http' --max-time 1800 -o "$2" "$1"
    elif has wget; then
        wget -q -O "$2" "$1"
    else
        fail "neither curl nor wget is here; install one of them."
    fi
}

# The newest Python that there are wheels for in the folder.
python_of() {
    for name in python3.14 python3.13 python3.12 python3.11 python3; do
        has "$name" || continue
        tag=$("$name" -c 'import sys, venv, ensurepip; print("cp%d%d" % sys.version_info[:2])' 2> /dev/null) || continue
        for wheel in "$1"/*"-$tag-$tag-"*.whl; do
            [ -f "$wheel" ] || break
            echo "$name"
            return 0
        done
    done
    return 1
}

# The program as it was built, or an environment of its wheels where the system's C library is too old for it.
prepare() {
    if "$1/bin/backupsite-agent" --version > /dev/null 2>&1; then
        return 0
    fi
    python=$(python_of "$1/wheels") || fail "the built program does not start on this system, and there is no Python 3.11 \
to 3.13 with venv. Install one (RHEL and its kin: dnf install python3.11), and try again."
    "$python" -m venv "$1/environment"
    "$1/environment/bin/python" -m pip install --quiet --no-index --find-links "$1/wheels" backupsite-agent ||
        fail "the wheels cannot be installed: no build for this Python or this processor is among them."
    rm -rf "${1:?}/bin"
    mkdir "$1/bin"
    cp "$1/backupsite-agent.sh" "$1/bin/backupsite-agent"
    chmod 0755 "$1/bin/backupsite-agent"
    "$1/bin/backupsite-agent" --version > /dev/null || fail "the program does not start; see above."
}

start_service() {
    if has_systemd; then
        cp "$PROGRAMS/current/backupsite-agent.service" "$UNIT"
        systemctl daemon-reload
        systemctl enable --now backupsite-agent.service
        say "runs as backupsite-agent.service"
        return 0
    fi
    if [ -n "$PREFIX" ]; then
        say "not started: it was installed below $PREFIX to try it out"
        return 0
    fi
    run_without_systemd
    if [ -d /etc/cron.d ]; then
        printf '%s\n' "@reboot root echo \$\$ > $STATE/run.pid; exec $PROGRAMS/run.sh" > "$CRON"
        chmod 0644 "$CRON"
        say "runs; there is no systemd here, so cron starts it with the system ($CRON)"
    else
        say "runs, but there is neither systemd nor cron here: have your init call $PROGRAMS/run.sh at start"
    fi
}

# The terminal, not standard input: this script comes from there.
ask_for_token() {
    (: < /dev/tty) 2> /dev/null || fail "there is no terminal to ask at: put the token into BACKUPSITE_TOKEN."
    echo_as_it_was=$(stty -g < /dev/tty 2> /dev/null) || echo_as_it_was=''
    trap '[ -z "$echo_as_it_was" ] || stty "$echo_as_it_was" < /dev/tty' EXIT
    trap 'exit 1' HUP INT TERM
    [ -z "$echo_as_it_was" ] || stty -echo < /dev/tty
    printf 'Token of the portal: ' > /dev/tty
    IFS= read -r token < /dev/tty || true
    echo > /dev/tty
    [ -z "$echo_as_it_was" ] || stty "$echo_as_it_was" < /dev/tty
    trap - EXIT HUP INT TERM
    [ -n "$token" ] || fail "no token was typed; nothing was installed."
}

# Sets `token`, which no other program sees but the agent, on its standard input.
find_token() {
    token=${1:-${BACKUPSITE_TOKEN:-}}
    unset BACKUPSITE_TOKEN
    if [ "$token" = --ask ]; then ask_for_token; fi
}

# With the token in `token`, empty for none.
install() {
    not_as_package
    stopped='' work=''
    release=$PROGRAMS/releases/$NUMBER
    for tool in tar sha256sum; do has "$tool" || fail "$tool is missing; install it."; done
    umask 022
    trap finish EXIT
    trap 'exit 1' HUP INT TERM
    work=$(mktemp -d)
    say "downloads release $NUMBER"
    download "$DOWNLOAD" "$work/agent.tar.gz" || fail "$DOWNLOAD cannot be downloaded."
    echo "$SHA256  $work/agent.tar.gz" | sha256sum -c - > /dev/null 2>&1 ||
        fail "what was downloaded is not the file that this script is for (SHA-256 is another one). Nothing was installed."
    mkdir -p "$PROGRAMS/releases" "$(dirname "$LINK")"
    rm -rf "$release.new"
    mkdir "$release.new"
    tar -xzf "$work/agent.tar.gz" -C "$release.new" --no-same-owner
    prepare "$release.new"
    if is_service_on; then
        stopped=yes
        stop_service
    fi
    # The release that may be there under this number goes only when the other one has its place.
    rm -rf "$release.old"
    [ ! -d "$release" ] || mv "$release" "$release.old"
    mv "$release.new" "$release"
    cp "$release/run.sh" "$PROGRAMS/run.sh.new"
    chmod 0755 "$PROGRAMS/run.sh.new"
    mv "$PROGRAMS/run.sh.new" "$PROGRAMS/run.sh"
    rm -f "$PROGRAMS/trial"
    ln -sfn "releases/$NUMBER" "$PROGRAMS/current"
    rm -rf "$release.old"
    ln -sf "$PROGRAMS/current/bin/backupsite-agent" "$LINK"
    mkdir -p "$CONFIG/hooks.d"
    chmod 0700 "$CONFIG" "$CONFIG/hooks.d"
    if agent status > /dev/null 2>&1; then
        [ -z "$token" ] || say "this server is enrolled already: the token was not used. To enrol it anew: \
backupsite-agent unenrol --purge, and this line again"
    elif [ -n "$token" ]; then
        # Not as an argument: every user of the server sees those.
        printf '%s\n' "$token" | agent enrol - --url "$URL" || fail "it is installed, and not enrolled: see above. With a \
new token: backupsite-agent enrol TOKEN --url $URL"
    fi
    if agent status > /dev/null 2>&1; then
        start_service
        stopped=''
    else
        say "installed in $PROGRAMS. Enrol it: backupsite-agent enrol TOKEN --url $URL"
    fi
}

main() {
    [ "$(id -u)" = 0 ] || fail "run this as root: only root can read the whole server."
    case "${1:-}" in
        --uninstall) uninstall "${2:-}" ;;
        --ask | [!-]* | '')
            find_token "${1:-}"
            install
            ;;
        *) fail "unknown option $1. Use: sh -s -- TOKEN, sh -s -- --ask, or sh -s -- --uninstall [--purge]" ;;
    esac
}

# All of it is here before anything of it runs: a download that was cut does nothing.
main "$@"
