#!/usr/bin/env bash
# Makes the systems on which `make lab-agent-systems` tries the agent, in var/lab/systems: Debian 11, 12 and 13 as folders,
# and a Debian 12 with systemd as a disk that an emulated machine boots. Nothing is installed but debootstrap, qemu and
# e2fsprogs, where they are missing and we may. Ten minutes the first time, then some seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=$PWD/var/lab/systems
for package in debootstrap qemu-system-x86 busybox-static cpio kmod e2fsprogs openssh-client dropbear-bin; do
    dpkg -s "$package" > /dev/null 2>&1 || tools/apt-install.sh "$package"
done
# shellcheck disable=SC2016  # the word in $() is apt's
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -E '/debian/?$' | head -1)
mkdir -p "$OUT/debs"

system() { # NAME RELEASE PACKAGES
    [ -e "$OUT/$1/complete" ] && return 0
    echo "  ...     $1"
    rm -rf "${OUT:?}/$1"
    debootstrap --variant=minbase --cache-dir="$OUT/debs" --include="$3" "$2" "$OUT/$1" "$mirror" > "$OUT/$1.log" 2>&1
    rm -rf "$OUT/$1"/var/cache/apt/archives/*.deb "$OUT/$1"/usr/share/{doc,locale,man}
    touch "$OUT/$1/complete"
}
# One that fetches with wget, one that has cron, one with Python for the wheels.
system bullseye bullseye ca-certificates,curl
system bookworm bookworm ca-certificates,curl,cron,python3-venv
system trixie trixie ca-certificates,wget
system guest bookworm ca-certificates,curl,systemd,systemd-sysv,dbus,dropbear-bin,socat,procps

# --- the machine: a kernel, modules for its disk and network, and the system above on a disk -------------------------
guest=$OUT/machine
mkdir -p "$guest"
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p' | head -1)
if [ ! -e "$guest/$kernel.deb" ]; then
    rm -rf "$guest/kernel" && mkdir -p "$guest/kernel"
    (cd "$guest" && apt-get download -qq -o APT::Sandbox::User=root "$kernel" && mv "$kernel"_*.deb "$kernel.deb")
    dpkg-deb -x "$guest/$kernel.deb" "$guest/kernel"
fi
version=${kernel#linux-image-}
depmod -b "$guest/kernel" "$version"
first=$guest/first
rm -rf "$first" && mkdir -p "$first"/{bin,lib,proc,sys,dev,root}
cp /bin/busybox "$first/bin/"
: > "$first/lib/order"
for module in virtio_pci virtio_blk virtio_net virtio_rng; do
    modprobe -d "$guest/kernel" -S "$version" --show-depends "$module" | sed -n 's/^insmod //p' | while read -r file _; do
        name=$(basename "$file")
        [ -e "$first/lib/$name" ] && continue
        cp "$file" "$first/lib/"
        echo "$name" >> "$first/lib/order"
    done
done
cat > "$first/init" << 'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read module; do insmod /lib/$module; done < /lib/order
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; sleep 0.2; done
ifconfig lo 127.0.0.1
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up && route add default gw 10.0.2.2
mount -t ext4 /dev/vda /root
mount -o move /proc /root/proc; mount -o move /sys /root/sys; mount -o move /dev /root/dev
exec switch_root /root /sbin/init
INIT
chmod +x "$first/init"
(cd "$first" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) > "$guest/initramfs.gz"
cp -f "$guest/kernel/boot/vmlinuz-$version" "$guest/vmlinuz"

root=$OUT/guest
[ -f "$guest/id" ] || ssh-keygen -q -t ed25519 -N '' -f "$guest/id"
mkdir -p "$root/etc/dropbear" "$root/root/.ssh" "$root/etc/systemd/system/multi-user.target.wants"
[ -f "$root/etc/dropbear/host_key" ] || dropbearkey -t ed25519 -f "$root/etc/dropbear/host_key" > /dev/null 2>&1
dropbearkey -y -f "$root/etc/dropbear/host_key" | grep '^ssh-ed25519' | cut -d' ' -f1,2 > "$guest/host_key.pub"
cp "$guest/id.pub" "$root/root/.ssh/authorized_keys"
chmod 700 "$root/root" "$root/root/.ssh"
chmod 600 "$root/root/.ssh/authorized_keys"
echo agent-guest > "$root/etc/hostname"
echo '/dev/vda / ext4 defaults 0 1' > "$root/etc/fstab"
unit() { # NAME COMMAND
    printf '[Unit]\nAfter=local-fs.target\n[Service]\nExecStart=%s\nRestart=always\n[Install]\nWantedBy=multi-user.target\n' "$2" \
        > "$root/etc/systemd/system/$1.service"
    ln -sf "../$1.service" "$root/etc/systemd/system/multi-user.target.wants/$1.service"
}
unit lab-ssh '/usr/sbin/dropbear -F -s -r /etc/dropbear/host_key -p 22'
# The control plane and the vault as addresses of this machine, where they are on the host too. %i is the port.
printf '[Service]\nExecStart=/usr/bin/socat TCP-LISTEN:%%i,bind=127.0.0.1,reuseaddr,fork TCP:10.0.2.2:%%i\nRestart=always\n' \
    > "$root/etc/systemd/system/lab-way@.service"
rm -f "$guest/root.img"
truncate -s 3G "$guest/root.img"
mke2fs -q -F -t ext4 -E root_owner=0:0 -d "$root" "$guest/root.img"
