#!/usr/bin/env bash
# Builds the OpenZFS modules for a Debian cloud kernel, without installing anything: packages are only unpacked.
# Kernel, modules and programs are kept in var/lab/openzfs; a second run finds them there. Takes some 6 minutes.
#   tools/lab/build_openzfs.sh [VERSION]
set -euo pipefail
cd "$(dirname "$0")/../.."
LAB=$PWD/var/lab
. tools/lab/debs.sh
out=$LAB/openzfs
[ -s "$out/done" ] && exit 0
mkdir -p "$out"

say() { echo "$(date +%H:%M:%S) $*"; }

zfs=$(newest zfs-dkms "${1:-2.3}")
linux=$(newest linux-image-cloud-amd64 6.1.)
kernel=$(lab_apt cache show "linux-image-cloud-amd64=$linux" | sed -n 's/^Depends: linux-image-\([^ ]*\) .*/\1/p')
common=${kernel/-cloud-amd64/-common}
say "kernel $kernel, OpenZFS $zfs"

fetch "$out/kernel" "linux-image-$kernel" "linux-headers-$kernel" "linux-headers-$common" linux-kbuild-6.1
fetch "$out/dkms" "zfs-dkms=$zfs"
fetch "$out/programs" "zfsutils-linux=$zfs" "libnvpair3linux=$zfs" "libuutil3linux=$zfs" "libzfs6linux=$zfs" \
    "libzpool6linux=$zfs"
say "unpacked"

# The headers name each other by the paths of an installed package.
root=$out/kernel/root
headers=$root/usr/src/linux-headers-$kernel
grep -rlI -e /usr/src/linux-headers -e /usr/lib/linux-kbuild "$headers" --include=Makefile --include='.kernel*' |
    xargs -r sed -i -e "s#\([ =]\|^\)/usr/src/linux-headers#\1$root/usr/src/linux-headers#g" \
        -e "s#\([ =]\|^\)/usr/lib/linux-kbuild#\1$root/usr/lib/linux-kbuild#g"

cd "$out"/dkms/root/usr/src/zfs-*
chmod +x configure
say "configure"
CONFIG_SHELL=/bin/bash nice ./configure --with-config=kernel --with-linux="$root/usr/src/linux-headers-$common" \
    --with-linux-obj="$headers" > "$out/configure.log" 2>&1 || { tail -20 "$out/configure.log"; exit 1; }
say "make"
nice make -j2 > "$out/make.log" 2>&1 || { tail -30 "$out/make.log"; exit 1; }
mkdir -p "$out/modules"
find module -name '*.ko' -exec cp {} "$out/modules/" \;
strip --strip-debug "$out"/modules/*.ko
rm -rf "$out/dkms/root"
echo "$kernel" > "$out/kernel.version"
echo "$zfs" > "$out/done"
say "built $(ls "$out/modules")"
