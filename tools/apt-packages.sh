#!/usr/bin/env bash
# Installs what is missing of a list; says what cannot run when it may not or cannot. Never fails.
#   tools/apt-packages.sh [tools/apt-packages.txt]
set -euo pipefail
cd "$(dirname "$0")/.."
list=${1:-tools/apt-packages.txt}

present() {
    local pattern path
    eval "pattern=($1)"
    for path in "${pattern[@]}"; do
        [ -e "$path" ] && return 0
    done
    return 1
}

missing() {
    grep -v '^#' "$list" | while IFS='|' read -r package shown what; do
        present "$shown" || echo "$(echo "$package" | xargs)|$what"
    done
}

packages=$(missing | cut -d'|' -f1 | xargs)
[ -n "$packages" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "  note    not root, so these packages are not installed: $packages"
elif ! command -v apt-get > /dev/null; then
    echo "  note    no apt-get here, so these packages are not installed: $packages"
else
    echo "  ...     installing $packages"
    # One by one when they do not all install, so that one that is not to be had costs only its own tests.
    # shellcheck disable=SC2086
    tools/apt-install.sh $packages || for package in $packages; do tools/apt-install.sh "$package" || true; done
fi
missing | while IFS='|' read -r package what; do
    echo "  note    without $package these cannot run:$what"
done
