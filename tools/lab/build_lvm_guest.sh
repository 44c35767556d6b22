#!/usr/bin/env bash
# Packs a kernel, LVM, Python and the drivers into a small machine with device-mapper. Some seconds; it installs only
# packages that are missing, where we may.
set -euo pipefail
cd "$(dirname "$0")/../.."
LAB=$PWD/var/lab
for package in qemu-system-x86 busybox-static cpio kmod lvm2 dmsetup thin-provisioning-tools e2fsprogs; do
    dpkg -s "$package" > /dev/null 2>&1 || tools/apt-install.sh "$package"
done
out=$LAB/lvm
root=$out/root
first=$out/first
python=$PWD/.venv/bin/python
. tools/lab/guest_root.sh
mkdir -p "$out"

# --- kernel and modules -----------------------------------------------------------------------------------------------
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p' | head -1)
mkdir -p "$out/kernel/root"
if [ ! -e "$out/kernel/$kernel.deb" ]; then
    rm -rf "$out/kernel" && mkdir -p "$out/kernel/root"
    (cd "$out/kernel" && apt-get download -qq -o APT::Sandbox::User=root "$kernel" && mv "$kernel"_*.deb "$kernel.deb")
    dpkg-deb -x "$out/kernel/$kernel.deb" "$out/kernel/root"
fi
version=${kernel#linux-image-}
depmod -b "$out/kernel/root" "$version"
rm -rf "$first" "$root"
mkdir -p "$first"/{bin,lib,proc,sys,dev,root}
cp /bin/busybox "$first/bin/"
: > "$first/lib/order"
# LVM wants the one of old snapshots even for thin ones.
for module in virtio_pci virtio_blk dm-thin-pool dm-snapshot; do
    modprobe -d "$out/kernel/root" -S "$version" --show-depends "$module" | sed -n 's/^insmod //p' |
        while read -r file _; do
            name=$(basename "$file")
            [ -e "$first/lib/$name" ] && continue
            cp "$file" "$first/lib/"
            echo "$name" >> "$first/lib/order"
        done
done
cat > "$first/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/sbin:/usr/bin:/sbin HOME=/tmp
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read module; do insmod /lib/$module; done < /lib/order
for try in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vdb ] && break; sleep 0.2; done
mount -o ro -t ext4 /dev/vda /root
for place in proc sys dev; do mount -o bind /$place /root/$place; done
mount -t tmpfs tmp /root/tmp; mount -t tmpfs run /root/run
chroot /root /usr/bin/env PYTHONPATH=/project LC_ALL=C /python/bin/python3 /project/tools/lab/lvm_steps.py
echo "GUEST-ENDED $?"
poweroff -f
INIT
chmod +x "$first/init"
(cd "$first" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) > "$out/initramfs.gz"
cp -f "$out/kernel/root/boot/vmlinuz-$version" "$out/vmlinuz"

# --- its own file system ----------------------------------------------------------------------------------------------
folders_of_root
mkdir -p "$root/etc/lvm"
for applet in sh env mkdir mount umount sync fstrim; do ln -s busybox "$root/bin/$applet"; done
ln -s ../../bin/busybox "$root/usr/bin/env"
for program in /usr/sbin/lvm /usr/sbin/dmsetup /usr/sbin/pdata_tools /usr/sbin/mke2fs /usr/sbin/e2fsck; do
    cp -L "$program" "$root/usr/sbin/"
    libraries "$program"
done
for name in lvs vgs lvcreate lvchange lvremove lvextend pvcreate vgcreate; do ln -s lvm "$root/usr/sbin/$name"; done
for name in thin_delta thin_dump thin_check; do ln -s pdata_tools "$root/usr/sbin/$name"; done
cat > "$root/etc/lvm/lvm.conf" <<'CONF'
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }
devices { obtain_device_list_from_udev = 0 external_device_info_source = "none" use_devicesfile = 0 }
backup { backup = 0 archive = 0 }
CONF
put_python agents.drivers.host agents.drivers.lvm
cp tools/lab/lvm_steps.py "$root/project/tools/lab/"
image_of_root "$out/root.img" 600M
du -sh "$root" "$out/initramfs.gz" | sed 's/^/      /'
