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
chroot /root /usr/bin/env PYTHONHOME=/python PYTHONPATH=/project:/packages LC_ALL=C /python/bin/python3 /project/tools/lab/lvm_steps.py
echo "GUEST-ENDED $?"
poweroff -f
INIT
chmod +x "$first/init"
(cd "$first" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) > "$out/initramfs.gz"
cp -f "$out/kernel/root/boot/vmlinuz-$version" "$out/vmlinuz"

# --- its own file system ----------------------------------------------------------------------------------------------
mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,etc/lvm,proc,sys,dev,tmp,run,lib/x86_64-linux-gnu,lib64,mnt,python/bin,python/lib,packages,project/tools/lab}
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
cp /bin/busybox "$root/bin/"
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
echo 'root:x:0:0:root:/tmp:/bin/sh' > "$root/etc/passwd"
echo 'root:x:0:' > "$root/etc/group"
prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
cp -L "$prefix/bin/python3" "$root/python/bin/python3"
cp -a "$prefix"/lib/python3.* "$root/python/lib/"
rm -rf "$root"/python/lib/python3.*/{test,site-packages,idlelib,ensurepip,config-*} "$root"/python/lib/python3.*/lib2to3
find "$root/python" -name __pycache__ -prune -exec rm -rf {} +
find "$prefix/lib" -maxdepth 1 -name 'libpython3*.so*' -exec cp -L {} "$root/lib/x86_64-linux-gnu/" \;
# shellcheck disable=SC2046  # names without spaces
libraries "$prefix/bin/python3" $(find "$root"/python/lib/python3.*/lib-dynload -name '*.so')
cp -r agents common engine "$root/project/"
cp tools/lab/lvm_steps.py "$root/project/tools/lab/"
# Packages that the drivers import, and no others.
"$python" - <<'PYTHON' | sort -u | while read -r place; do cp -r "$place" "$root/packages/"; done
import sys
import agents.drivers.host
import agents.drivers.lvm
for module in list(sys.modules.values()):
    file = getattr(module, "__file__", None) or ""
    if "/site-packages/" in file:
        folder, _, rest = file.partition("/site-packages/")
        print(f"{folder}/site-packages/{rest.split('/')[0]}")
PYTHON
# shellcheck disable=SC2046  # names without spaces
libraries $(find "$root/packages" -name '*.so')
find "$root/project" -name __pycache__ -prune -exec rm -rf {} +
rm -f "$out/root.img"
truncate -s 600M "$out/root.img"
mke2fs -q -F -t ext4 -E root_owner=0:0 -d "$root" "$out/root.img"
du -sh "$root" "$out/initramfs.gz" | sed 's/^/      /'
