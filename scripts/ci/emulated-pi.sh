#!/usr/bin/env bash
# Proves the device on an emulated Raspberry Pi 3: Debian 12 for arm64 with a real kernel, a real
# PL011 and real GPIO lines, our software put in by scripts/install.sh. Its UART leads to a virtual
# stick on this machine, where the hub is; its pins are read from outside. emulated_pi.py has the
# steps. --long adds power cuts during updates (--cuts: those alone); --figures only measures what
# the daemon costs there, for scripts/bench pi.
#   scripts/ci/emulated-pi.sh [--long | --cuts | --figures FILE] [--keep DIR]
# With --keep what is made once (tree, wheels, kernel, card) stays in DIR and is used again.
set -euo pipefail
tree=$(cd "$(dirname "$0")/../.." && pwd -P)
limit_s=600
suite=bookworm
packages=(qemu-system-arm mmdebstrap kmod zstd cpio device-tree-compiler e2fsprogs systemd
    gcc-aarch64-linux-gnu)

keep='' options=()
while [ $# -gt 0 ]; do
    case $1 in
        --long | --cuts) options+=("$1"); limit_s=4500 ;;
        --figures) options+=("$1" "${2:?--figures needs a file}"); shift; limit_s=1200 ;;
        --keep) keep=${2:?--keep needs a folder}; shift ;;
        *) echo "emulated-pi.sh: unknown option $1" >&2; exit 2 ;;
    esac
    shift
done

# All of it within the limit, what it started included.
if [ -z "${EMULATED_PI_BOUNDED:-}" ]; then
    export EMULATED_PI_BOUNDED=yes
    exec timeout --kill-after=20 "$limit_s" "$0" "${options[@]}" ${keep:+--keep "$keep"}
fi

python=3.11 # of that suite; byte code is compiled for it here
skip() { echo "SKIP: emulated Raspberry Pi: $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip "only root can build its system"
missing=()
for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ -z "${CI:-}" ] || ! command -v apt-get >/dev/null; then
        skip "Debian packages are missing: ${missing[*]}"
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
        >/dev/null
fi
/usr/bin/python3 --version 2>&1 | grep -q "Python $python\." ||
    skip "/usr/bin/python3 is no Python $python"

work=${keep:-$(mktemp -d)}
mkdir -p "$work/tmp"
work=$(cd "$work" && pwd -P)
export TMPDIR=$work/tmp # what others leave when they are ended goes with the rest
unset PYTHON
clean() { [ -n "$keep" ] || rm -rf "$work"; }
trap clean EXIT
trap 'echo "emulated Pi: FAILED: stopped before it was done"; exit 143' TERM INT
root=$work/root
now() { date +%s; }
began=$(now)
said=$began
quietly() { "$@" >>"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; exit 1; }; }
say() { echo "emulated Pi: $* ($(($(now) - said)) s)"; said=$(now); }

# --- the system: unpacked, not configured; enough for a test, nothing to ship ---------------------

include=systemd,systemd-sysv,udev,dbus,kmod,python3,python3-venv,login,passwd,iproute2,procps
include+=,libc-bin,base-passwd,base-files,dash,bash,coreutils,util-linux,mount,linux-image-arm64
include+=,libpam-runtime,libpam-modules,debianutils,sed,grep,gzip,tar,findutils,hostname
include+=,init-system-helpers,sysvinit-utils,mawk,adduser,busybox-static,libpython3.11-dev
unneeded="dev-hugepages.mount dev-mqueue.mount dpkg-db-backup.timer fstrim.timer getty@tty1
    modprobe@configfs modprobe@dm_mod modprobe@drm modprobe@efi_pstore modprobe@fuse modprobe@loop
    sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount
    sys-kernel-tracing.mount systemd-binfmt systemd-hwdb-update systemd-journal-catalog-update
    systemd-logind systemd-network-generator systemd-networkd systemd-networkd-wait-online
    systemd-pstore systemd-sysext systemd-update-utmp"
if [ ! -d "$root" ]; then
    rm -rf "$work/root.part"
    quietly mmdebstrap --quiet --architectures=arm64 --variant=extract --include="$include" \
        "$suite" "$work/root.part"
    part=$work/root.part
    cp "$part"/usr/share/base-passwd/passwd.master "$part/etc/passwd"
    cp "$part"/usr/share/base-passwd/group.master "$part/etc/group"
    cp "$part"/usr/share/libc-bin/nsswitch.conf "$part/etc"
    mkdir -p "$part"/{opt,mnt,srv,media,root}
    echo emulated-pi > "$part/etc/hostname"
    head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$part/etc/machine-id"
    # Only what the proof needs: everything is slow there.
    # shellcheck disable=SC2086 # one word for each unit
    systemctl --root="$part" --quiet mask $unneeded
    # As its packages would when they are configured: a start must not compile the library.
    /usr/bin/python3 -m compileall -q -j2 -s "$part" -x '/(test|idlelib|lib2to3)/' \
        "$part/usr/lib/python$python"
    mv "$part" "$root"
    say "Debian $suite for arm64 is unpacked"
fi
kernel=$(echo "$root"/boot/vmlinuz-*)
release=${kernel##*/vmlinuz-}

# --- our software, as anybody would put it into the tree of an image ------------------------------

target=(--platform manylinux2014_aarch64 --python "$python")
proof=$root/root/proof # what the steps need besides: never part of an installation
if [ ! -d "$proof" ]; then
    "$tree/scripts/setup" --dev
    venv=$tree/.venv/bin/python
    quietly "$tree/scripts/wheelhouse" "$work/wheels" --extras gpio,radio "${target[@]}"
    quietly "$tree/scripts/install.sh" --root "$root" --wheelhouse "$work/wheels" \
        --extras gpio,radio --target-platform manylinux2014_aarch64 --target-python "$python"
    quietly systemd-sysusers --root="$root"
    say "install.sh has put firmware_node into it"

    # RPi.GPIO is source alone, so it is compiled here; pytest runs the suite of the back ends.
    compiler="aarch64-linux-gnu-gcc --sysroot=$root"
    quietly env CC="$compiler" LDSHARED="$compiler -shared" \
        CFLAGS="-fcommon -I$root/usr/include/python$python" \
        _PYTHON_HOST_PLATFORM=linux-aarch64 \
        SETUPTOOLS_EXT_SUFFIX=".cpython-${python/./}-aarch64-linux-gnu.so" \
        "$venv" -m pip --quiet wheel --no-cache-dir --no-build-isolation --no-deps \
        --no-binary :all: --wheel-dir "$work/rpi" RPi.GPIO
    mkdir -p "$proof.part"
    quietly "$venv" -m pip --quiet install --target "$proof.part/lib" --only-binary :all: \
        --platform linux_aarch64 --platform manylinux2014_aarch64 --python-version "$python" \
        --constraint "$tree/requirements-dev.lock" pytest "$work"/rpi/*.whl
    rm -rf "$root"/usr/include "$root"/usr/lib/aarch64-linux-gnu/*.a \
        "$root/usr/lib/python$python"/config-* "$root"/usr/share/{doc,man,locale}
    mv "$proof.part" "$proof"
    say "RPi.GPIO and pytest lie beside it"
fi

# --- what a boot loader would bring ---------------------------------------------------------------

if [ ! -f "$work/initrd" ]; then
    cp "$kernel" "$work/kernel"
    cp "$root"/usr/lib/linux-image-*/broadcom/bcm2837-rpi-3-b.dtb "$work/pi.dtb"
    fdtput -r "$work/pi.dtb" /soc/serial@7e201000/bluetooth # as disable-bt: ttyAMA0 is free
    fdtput -c "$work/pi.dtb" /system
    fdtput -t x "$work/pi.dtb" /system linux,revision a02082 # how RPi.GPIO knows a Pi 3B
    depmod -b "$root" "$release"
    early=$work/early
    rm -rf "$early"
    mkdir -p "$early"/{bin,dev,proc,sys,newroot}
    cp "$root/bin/busybox" "$early/bin"
    for name in sh mount modprobe switch_root sleep; do ln -s busybox "$early/bin/$name"; done
    needed=(virtio_blk crc32c_generic ext4 clk-raspberrypi bcm2835-dma bcm2835 sdhci-iproc mmc_block)
    for module in "${needed[@]}"; do
        modprobe -d "$root" -S "$release" --show-depends "$module" | while read -r what path _; do
            [ "$what" = insmod ] || continue
            install -D "$path" "$early/${path#"$root/"}"
        done
    done
    cp "$root/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} \
        "$early/lib/modules/$release"
    depmod -b "$early" "$release"
    cat > "$early/init" <<INIT
#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in ${needed[*]}; do modprobe \$module; done
until [ -b /dev/mmcblk0 ]; do sleep 0.2; done
mount -t ext4 /dev/mmcblk0 /newroot
mount --move /dev /newroot/dev
exec switch_root /newroot /sbin/init
INIT
    chmod 755 "$early/init"
    (cd "$early" && find . | cpio --quiet -o -H newc | zstd -q) > "$work/initrd.part"
    rm -rf "$early"
    mv "$work/initrd.part" "$work/initrd"
    say "kernel, device tree and initial RAM disk are ready"
fi

export PYTHONPATH=$tree/scripts
"$tree/.venv/bin/python" -u "$tree/scripts/ci/emulated_pi.py" "$work" "${options[@]}"
echo "emulated Pi: $(($(now) - began)) s in all"
