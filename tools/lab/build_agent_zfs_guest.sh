#!/usr/bin/env bash
# Packs the kernel and OpenZFS of build_openzfs.sh, Python and the agent program into a small machine. Some seconds; it
# installs only packages that are missing, where we may.
set -euo pipefail
cd "$(dirname "$0")/../.."
LAB=$PWD/var/lab
for package in qemu-system-x86 busybox-static cpio kmod e2fsprogs; do
    dpkg -s "$package" > /dev/null 2>&1 || tools/apt-install.sh "$package"
done
zfs=$LAB/openzfs
out=$LAB/agent-zfs
root=$out/root
first=$out/first
python=$PWD/.venv/bin/python
. tools/lab/guest_root.sh
version=$(cat "$zfs/kernel.version")
kernel=$zfs/kernel/root
depmod -b "$kernel" "$version"
rm -rf "$first" "$root"
mkdir -p "$first"/{bin,lib,proc,sys,dev,root}
cp /bin/busybox "$first/bin/"
for module in virtio_pci virtio_blk virtio_rng fuse; do
    modprobe -d "$kernel" -S "$version" --show-depends "$module" | sed -n 's/^insmod //p' |
        while read -r file _; do
            name=$(basename "$file")
            [ -e "$first/lib/$name" ] && continue
            cp "$file" "$first/lib/"
            echo "$name" >> "$first/lib/order"
        done
done
cp "$zfs"/modules/*.ko "$first/lib/"
printf 'spl.ko\nzfs.ko\n' >> "$first/lib/order"
# The kernel's own `mount` of snapshots starts from the first process's root: so it is left for the second one.
cat > "$first/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read module; do insmod /lib/$module; done < /lib/order
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vdb1 ] && break; sleep 0.2; done
mount -o ro -t ext4 /dev/vda /root
for place in proc sys dev; do mount -o move /$place /root/$place; done
exec switch_root /root /sbin/begin
INIT
chmod +x "$first/init"
(cd "$first" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) > "$out/initramfs.gz"
cp -f "$kernel/boot/vmlinuz-$version" "$out/vmlinuz"

folders_of_root
mkdir -p "$root"/{srv,etc/zfs,usr/share/zoneinfo}
cp -L /usr/share/zoneinfo/UTC "$root/usr/share/zoneinfo/"
ln -s /proc/self/mounts "$root/etc/mtab"
for applet in sh mkdir umount sync ls cat poweroff ifconfig; do ln -s busybox "$root/bin/$applet"; done
ln -s ../../bin/busybox "$root/usr/bin/env"
programs=$zfs/programs/root
export LD_LIBRARY_PATH=$programs/lib/x86_64-linux-gnu:$programs/usr/lib/x86_64-linux-gnu
for program in "$programs"/sbin/{zfs,zpool,mount.zfs} /bin/mount /usr/sbin/mke2fs; do
    cp -L "$program" "$root/sbin/"
    libraries "$program"
done
unset LD_LIBRARY_PATH
cp -L /lib/x86_64-linux-gnu/libgcc_s.so.1 "$root/lib/x86_64-linux-gnu/"
put_python tests.agents.stand_in agents.program.agent.cli agents.program.agent.moving
mkdir -p "$root/project/tests/agents" "$root/project/tests/engine"
cp tests/__init__.py "$root/project/tests/"
cp tests/agents/{__init__,stand_in}.py "$root/project/tests/agents/"
cp tests/engine/{__init__,support}.py "$root/project/tests/engine/"
cp tools/lab/agent_zfs_steps.py "$root/project/tools/lab/"
cat > "$root/sbin/begin" <<'BEGIN'
#!/bin/sh
export PATH=/usr/sbin:/sbin:/usr/bin:/bin HOME=/tmp LC_ALL=C
export PYTHONPATH=/project PYTHONDONTWRITEBYTECODE=1
/bin/busybox mount -t tmpfs tmp /tmp; /bin/busybox mount -t tmpfs run /run
ifconfig lo 127.0.0.1
/python/bin/python3 /project/tools/lab/agent_zfs_steps.py
echo "GUEST-ENDED $?"
poweroff -f
BEGIN
chmod +x "$root/sbin/begin"
image_of_root "$out/root.img" 600M
du -sh "$root" "$out/initramfs.gz" | sed 's/^/      /'
