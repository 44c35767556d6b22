# Sourced: the file system of a small machine with Python and this project. Wants `root`, the folder that it is made in,
# and `python`, the interpreter whose Python and packages go into it.
# shellcheck shell=bash

libraries() { # FILE...: copies what they are linked with
    local library
    { ldd "$@" 2> /dev/null || true; } | grep -o '/[^ ):]*' | sort -u | while read -r library; do
        [ -f "$library" ] || continue
        case $library in
            */ld-linux*) cp -Ln "$library" "$root/lib64/" || true ;;
            *.so*) cp -Ln "$library" "$root/lib/x86_64-linux-gnu/" || true ;;
        esac
    done
}

folders_of_root() {
    mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc,proc,sys,dev,tmp,run,lib/x86_64-linux-gnu,lib64,mnt} \
        "$root"/{python/bin,python/lib,project/tools/lab}
    cp /bin/busybox "$root/bin/"
    echo 'root:x:0:0:root:/tmp:/bin/sh' > "$root/etc/passwd"
    echo 'root:x:0:' > "$root/etc/group"
}

put_python() { # MODULE...: Python, the project's own packages, and of others what these modules import
    local prefix packages
    prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
    cp -L "$prefix/bin/python3" "$root/python/bin/python3"
    cp -a "$prefix"/lib/python3.* "$root/python/lib/"
    rm -rf "$root"/python/lib/python3.*/{test,site-packages,idlelib,ensurepip,config-*} "$root"/python/lib/python3.*/lib2to3
    find "$root/python" -name __pycache__ -prune -exec rm -rf {} +
    find "$prefix/lib" -maxdepth 1 -name 'libpython3*.so*' -exec cp -L {} "$root/lib/x86_64-linux-gnu/" \;
    # shellcheck disable=SC2046  # names without spaces
    libraries "$prefix/bin/python3" $(find "$root"/python/lib/python3.*/lib-dynload -name '*.so')
    cp -r agents common engine "$root/project/"
    packages=$(echo "$root"/python/lib/python3.*)/site-packages
    mkdir -p "$packages"
    "$python" - "$@" <<'PYTHON' | sort -u | while read -r place; do cp -r "$place" "$packages/"; done
import importlib
import sys

for name in sys.argv[1:]:
    importlib.import_module(name)
for module in list(sys.modules.values()):
    file = getattr(module, "__file__", None) or ""
    if "/site-packages/" in file:
        folder, _, rest = file.partition("/site-packages/")
        print(f"{folder}/site-packages/{rest.split('/')[0]}")
PYTHON
    # shellcheck disable=SC2046  # names without spaces
    libraries $(find "$packages" -name '*.so')
}

image_of_root() { # FILE SIZE
    find "$root/project" -name __pycache__ -prune -exec rm -rf {} +
    # An emulated machine would be a minute about it at each start of a program.
    "$python" -m compileall -q -j 2 --invalidation-mode unchecked-hash "$root/project" "$root/python/lib" || true
    rm -f "$1"
    truncate -s "$2" "$1"
    mke2fs -q -F -t ext4 -E root_owner=0:0 -d "$root" "$1"
}
