# Sourced: fetches Debian packages without installing them. Wants LAB, the folder where everything of the lab is kept.
# shellcheck shell=bash

# apt with contrib and backports added to what this machine reads anyway, and lists of its own: the machine's stay as
# they are.  lab_apt get|cache ...
lab_apt() {
    local program=$1
    shift
    [ -s "$LAB/apt/sources.list" ] || _write_sources
    "apt-$program" -o Dir::Etc::sourcelist="$LAB/apt/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$LAB/apt/lists" -o Dir::Cache="$LAB/apt/cache" -o APT::Sandbox::User=root "$@"
}

_write_sources() {
    local mirror release
    mkdir -p "$LAB/apt/lists/partial" "$LAB/apt/cache/archives/partial"
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    # shellcheck disable=SC2016  # the words in $() are apt's
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' |
        awk -v release="$release" '$2 == release && $1 ~ /debian\/?$/ { print $1; exit }')
    printf 'deb %s %s main contrib\ndeb %s %s-backports main contrib\n' \
        "$mirror" "$release" "$mirror" "$release" > "$LAB/apt/sources.list"
    lab_apt get update -qq
}

# newest PACKAGE PREFIX: the newest version that begins so.
newest() {
    lab_apt cache madison "$1" | awk -v prefix="$2" 'index($3, prefix) == 1 { print $3; exit }'
}

# fetch FOLDER PACKAGE[=VERSION]...: downloads what is not there yet, and unpacks all of it into FOLDER/root.
fetch() {
    local folder=$1 name mark
    shift
    mkdir -p "$folder/debs" "$folder/root"
    for name in "$@"; do
        mark=$folder/debs/.${name//[^A-Za-z0-9.]/_}
        [ -e "$mark" ] && continue
        (cd "$folder/debs" && lab_apt get download -qq "$name") && touch "$mark"
    done
    for name in "$folder"/debs/*.deb; do
        dpkg-deb -x "$name" "$folder/root"
    done
}
