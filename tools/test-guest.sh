#!/usr/bin/env bash
# Fetches what the tests' emulated guest is made of (kernel, busybox, QEMU's guest agent) as Debian packages and unpacks
# them below var/test-guest. Nothing is installed, so no machine gets another kernel. Never fails: says what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
target=var/test-guest
[ -e "$target/complete" ] && exit 0

give_up() {
    echo "  note    without $1 the tests that boot a guest cannot run"
    exit 0
}

command -v apt-get > /dev/null || give_up "apt-get"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kernel=$(apt-cache depends linux-image-cloud-amd64 2> /dev/null | sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p' | head -1)
[ -n "$kernel" ] || give_up "a Debian kernel in the package lists"
echo "  ...     fetching the parts of the test guest"
(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$kernel" qemu-guest-agent busybox-static) \
    > /dev/null 2>&1 || give_up "the packages of a kernel, busybox and QEMU's guest agent"
rm -rf "$target" && mkdir -p "$target/root"
for package in "$work"/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$target/root" --wildcards \
        './boot/vmlinuz*' './lib/modules/*/kernel/drivers/virtio/*' './lib/modules/*/kernel/drivers/block/virtio_blk*' \
        './lib/modules/*/kernel/drivers/char/virtio_console*' \
        './usr/sbin/qemu-ga' './bin/busybox' 2> /dev/null || true
done
if [ -e "$target/root/usr/sbin/qemu-ga" ]; then touch "$target/complete"; fi
