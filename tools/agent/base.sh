#!/usr/bin/env bash
# Makes an older Debian with a Python of its own in it, in which `build.py --base RELEASE` freezes the agent program:
# what is linked there starts on every system with the same C library or a newer one.
#
#   tools/agent/base.sh bullseye        prints the folder; var/agent/base keeps it (a quarter of an hour once, then nothing)
#
# Python and OpenSSL are compiled from the source packages of the newer release below, with Debian's fixes; theirs of
# the older release would be too old and without fixes. Needs root, debootstrap and apt-get; nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
release=$1
KEEP=$PWD/var/agent/base
NEWER=bookworm
PYTHON=python3.11
ARCHITECTURE=$(dpkg --print-architecture)
[ "$(id -u)" = 0 ] || { echo "a base is made by root: it is a system of its own" >&2; exit 1; }
for program in debootstrap dpkg-source; do
    command -v "$program" > /dev/null || tools/apt-install.sh debootstrap dpkg-dev >&2
done

# The mirrors that this machine reads anyway, with lists of our own: the machine's stay as they are.
# shellcheck disable=SC2016  # the words in $() are apt's
uris=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sort -u)
mirror=$(grep -E '/debian/?$' <<< "$uris" | head -1)
security=$(grep -E '/debian-security/?$' <<< "$uris" | head -1)
[ -n "$mirror" ] || { echo "apt knows no mirror of Debian on this machine" >&2; exit 1; }
mkdir -p "$KEEP/apt/lists/partial" "$KEEP/apt/cache/archives/partial" "$KEEP/sources"
printf 'deb-src %s %s main\n' "$mirror" "$NEWER" "${security:-$mirror}" "$NEWER${security:+-security}" | sort -u \
    > "$KEEP/apt/sources.list"
apt_here() { # get|cache ...
    local program=apt-$1
    shift
    "$program" -o Dir::Etc::sourcelist="$KEEP/apt/sources.list" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root \
        -o Dir::State::lists="$KEEP/apt/lists" -o Dir::Cache="$KEEP/apt/cache" "$@"
}
# PACKAGE: fetches the newest source that can be had, and says which one it is. A mirror may tell of fixes that it does
# not hand out; then it is the one before, and a note.
fetch() {
    local version versions
    versions=$(apt_here cache madison "$1" | awk '$NF == "Sources" { print $3 }' | sort -rVu)
    for version in $versions; do
        if (cd "$KEEP/sources" && apt_here get source -qq --download-only --only-source "$1=$version") \
            > "$KEEP/fetch.log" 2>&1; then
            echo "$version"
            return 0
        fi
        echo "  note    the source of $1 $version cannot be had here; an older one is taken" >&2
    done
    echo "the source of $1 cannot be had here; see $KEEP/fetch.log" >&2
    return 1
}
apt_here get update -qq
openssl=$(fetch openssl)
python=$(fetch "$PYTHON")
base=$KEEP/$release-$ARCHITECTURE-$PYTHON-$python-openssl-$openssl-$(cat tools/agent/{base,compile}.sh | sha256sum | cut -c1-8)
if [ -e "$base/complete" ]; then
    echo "$base"
    exit 0
fi

echo "  ...     $release with Python $python and OpenSSL $openssl, once" >&2
exec 3>&1 > "$KEEP/build.log" 2>&1
trap 'echo "  note    it did not come about; see $KEEP/build.log" >&2' ERR
rm -rf "$base" "${KEEP:?}/$release-$ARCHITECTURE-"*
nice debootstrap --variant=minbase --arch="$ARCHITECTURE" \
    --include=gcc,libc6-dev,make,perl,binutils,zlib1g-dev,libffi-dev,libbz2-dev,liblzma-dev "$release" "$base" "$mirror"
mkdir "$base/build"
unpack() { # PACKAGE VERSION FOLDER: with Debian's fixes applied; a file's name has no epoch
    dpkg-source --no-check -x "$KEEP/sources/$1_${2#*:}.dsc" "$base/build/$3"
}
unpack openssl "$openssl" openssl
unpack "$PYTHON" "$python" python
cp tools/agent/compile.sh "$base/build/"
# Its mounts end with the command.
# shellcheck disable=SC2016  # the inner shell expands them
inside() { # COMMAND...
    unshare --mount sh -c 'mount -t proc proc "$1/proc" && exec chroot "$@"' sh "$base" "$@"
}
inside env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin LC_ALL=C.UTF-8 JOBS="$(nproc)" nice sh /build/compile.sh
rm -rf "$base/build" "$base"/var/cache/apt/archives/*.deb "$base"/usr/share/{doc,locale,man}
touch "$base/complete"
echo "$base" >&3
