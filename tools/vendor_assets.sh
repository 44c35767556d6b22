#!/usr/bin/env bash
# Fetches the browser files of others that we serve ourselves, checks them, and puts them where they belong.
# Run it after raising a version here; the files are part of the repository, so nobody else needs npm.
set -euo pipefail

TABLER_VERSION=1.6.1
TABLER_SHA256=370a2d4e608ae518351d10528fc7dbe19b354ae5062c51b2a9cb294850d65403
TARGET="$(cd "$(dirname "$0")/.." && pwd)/backupsite/static/vendor/tabler"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent "@tabler/core@${TABLER_VERSION}" >/dev/null
tar -xzf "tabler-core-${TABLER_VERSION}.tgz" package/dist/css/tabler.min.css
echo "${TABLER_SHA256}  package/dist/css/tabler.min.css" | sha256sum --check --quiet
mkdir -p "$TARGET"
# The map is not served, so nothing may ask for it.
sed 's|/\*# sourceMappingURL=.*\*/||' package/dist/css/tabler.min.css >"$TARGET/tabler.min.css"
echo "Tabler ${TABLER_VERSION} is in place."
