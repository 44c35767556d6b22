#!/usr/bin/env bash
# Packs the kernel, OpenZFS and an SSH server of build_openzfs.sh into an initramfs. Takes some seconds; nothing is
# installed but qemu-system-x86, busybox-static and cpio, where they are missing and we may.
set -euo pipefail
cd "$(dirname "$0")/../.."
LAB=$PWD/var/lab
. tools/lab/debs.sh
for package in qemu-system-x86 busybox-static cpio openssh-client kmod; do
    dpkg -s "$package" > /dev/null 2>&1 || tools/apt-install.sh "$package"
done
zfs=$LAB/openzfs
out=$LAB/guest
root=$out/root
kernel=$(cat "$zfs/kernel.version")
fetch "$out/ssh" dropbear-bin libtomcrypt1 libtommath1
ssh=$out/ssh/root
rm -rf "$root"
mkdir -p "$root"/{bin,sbin,etc/dropbear,proc,sys,dev,tmp,run,lib/modules,lib/x86_64-linux-gnu,lib64,usr/bin,usr/sbin,root/.ssh,etc/zfs}

programs=$zfs/programs/root
export LD_LIBRARY_PATH=$programs/lib/x86_64-linux-gnu:$programs/usr/lib/x86_64-linux-gnu:$ssh/usr/lib/x86_64-linux-gnu
put() { # FILE PLACE: with the libraries that it needs
    local library
    cp -L "$1" "$root$2"
    ldd "$1" | grep -o '/[^ ]*' | while read -r library; do
        case $library in
            */ld-linux*) cp -Ln "$library" "$root/lib64/" || true ;;
            *) cp -Ln "$library" "$root/lib/x86_64-linux-gnu/" || true ;;
        esac
    done
}
cp /bin/busybox "$root/bin/"
for program in zfs zpool mount.zfs; do
    put "$programs/sbin/$program" "/sbin/$program"
done
put "$ssh/usr/sbin/dropbear" /usr/sbin/dropbear
# zfs send opens it when it ends a thread.
cp -L /lib/x86_64-linux-gnu/libgcc_s.so.1 "$root/lib/x86_64-linux-gnu/"
cp -L /lib/x86_64-linux-gnu/libnss_files.so.2 "$root/lib/x86_64-linux-gnu/" 2> /dev/null || true

[ -f "$out/id" ] || ssh-keygen -q -t ed25519 -N '' -f "$out/id"
key=$(find "$ssh" -name dropbearkey)
[ -f "$out/host_key" ] || "$key" -t ed25519 -f "$out/host_key" > /dev/null 2>&1
"$key" -y -f "$out/host_key" | grep '^ssh-ed25519' | cut -d' ' -f1,2 > "$out/host_key.pub"
cp "$out/host_key" "$root/etc/dropbear/host_key"
cp "$out/id.pub" "$root/root/.ssh/authorized_keys"
chmod 700 "$root/root" "$root/root/.ssh"
chmod 600 "$root/root/.ssh/authorized_keys"
echo 'root:x:0:0:root:/root:/bin/sh' > "$root/etc/passwd"
echo 'root:x:0:' > "$root/etc/group"
echo /bin/sh > "$root/etc/shells"
echo 'passwd: files' > "$root/etc/nsswitch.conf"
ln -s /proc/mounts "$root/etc/mtab"

# The kernel's modules in the order in which they need each other.
modules=$zfs/kernel/root/lib/modules/$kernel
depmod -b "$zfs/kernel/root" "$kernel"
: > "$root/etc/modules"
add() {
    local file
    file=$(find "$modules" -name "$1.ko*" | head -1)
    [ -n "$file" ] || return 0
    cp "$file" "$root/lib/modules/"
    basename "$file" >> "$root/etc/modules"
}
for module in virtio_pci virtio_blk virtio_net virtio_rng; do
    modprobe -d "$zfs/kernel/root" -S "$kernel" --show-depends "$module" 2> /dev/null | sed -n 's/^insmod //p' |
        while read -r file _; do
            name=$(basename "$file")
            [ -e "$root/lib/modules/$name" ] && continue
            cp "$file" "$root/lib/modules/"
            echo "$name" >> "$root/etc/modules"
        done
done
cp "$zfs"/modules/*.ko "$root/lib/modules/"
printf 'spl.ko\nzfs.ko\n' >> "$root/etc/modules"

cat > "$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts; mount -t devpts devpts /dev/pts; mount -t tmpfs tmp /tmp
while read module; do insmod /lib/modules/$module || echo "insmod $module failed"; done < /etc/modules
hostname guest; ifconfig lo 127.0.0.1
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up && route add default gw 10.0.2.2
/usr/sbin/dropbear -s -r /etc/dropbear/host_key -p 22
echo "GUEST-READY $(cat /sys/module/zfs/version)"
while :; do sleep 3600; done
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) > "$out/initramfs.gz"
cp -f "$zfs/kernel/root/boot/vmlinuz-$kernel" "$out/vmlinuz"
