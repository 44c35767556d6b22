#!/usr/bin/env bash
# Fetches the browser files of others that we serve ourselves, checks them, and puts them where they belong.
# Run it after raising a version here; the files are part of the repository, so nobody else needs npm.
set -euo pipefail

TABLER_VERSION=1.6.1
TABLER_SHA256=370a2d4e608ae518351d10528fc7dbe19b354ae5062c51b2a9cb294850d65403
UPLOT_VERSION=1.6.32
UPLOT_JS_SHA256=19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f
UPLOT_CSS_SHA256=df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04
TARGET="$(cd "$(dirname "$0")/.." && pwd)/backupsite/static/vendor"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# fetch PACKAGE FILE...: the files of the package, below package/
fetch() {
  npm pack --silent "$1" >packed
  tar -xzf "$(tail -n 1 packed)" "${@:2}"
}

mkdir -p "$TARGET/tabler" "$TARGET/uplot"

fetch "@tabler/core@${TABLER_VERSION}" package/dist/css/tabler.min.css
echo "${TABLER_SHA256}  package/dist/css/tabler.min.css" | sha256sum --check --quiet
# The map is not served, so nothing may ask for it.
sed 's|/\*# sourceMappingURL=.*\*/||' package/dist/css/tabler.min.css >"$TARGET/tabler/tabler.min.css"
echo "Tabler ${TABLER_VERSION} is in place."

fetch "uplot@${UPLOT_VERSION}" package/dist/uPlot.iife.min.js package/dist/uPlot.min.css
echo "${UPLOT_JS_SHA256}  package/dist/uPlot.iife.min.js" | sha256sum --check --quiet
echo "${UPLOT_CSS_SHA256}  package/dist/uPlot.min.css" | sha256sum --check --quiet
cp package/dist/uPlot.iife.min.js "$TARGET/uplot/uplot.min.js"
cp package/dist/uPlot.min.css "$TARGET/uplot/uplot.min.css"
echo "uPlot ${UPLOT_VERSION} is in place."
