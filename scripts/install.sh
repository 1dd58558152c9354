#!/bin/sh
# Install firmware_node as a service, or take it away. See --help.
#
# A release is a folder that is complete before it gets its name; what runs is the one that the
# symlink "current" names, and that is switched by one rename. A release that does not bring every
# running instance back to READY is switched back, its units with it.
set -eu
umask 022
tree=$(cd "$(dirname "$0")/.." && pwd -P)

usage() {
    cat <<'END'
usage: scripts/install.sh [--wheelhouse DIR] [--extras NAMES] [--prefix DIR] [--root DIR]
       scripts/install.sh --uninstall [--purge] [--prefix DIR] [--root DIR]

  --wheelhouse DIR   wheels made by scripts/wheelhouse: nothing is downloaded
  --extras NAMES     optional parts, for example gpio,znp (default: none)
  --prefix DIR       where releases are (default: /opt/firmware-node)
  --root DIR         install into a tree, for an image; nothing is started or reloaded
  --target-platform TAG --target-python X.Y
                     with --root: the tree is of another machine; TAG may be given several times
  --uninstall        stop the instances, remove program and units
  --purge            and configuration, keys, state and the user

Set PYTHON to use another interpreter than /usr/bin/python3.
Exit code 0: done. 1: the new release did not get ready, the old one runs again. 2: wrong usage or
wheelhouse. 3: this machine lacks something.
END
}
say() { echo "install.sh: $*"; }
fail() { code=$1; shift; echo "install.sh: $*" >&2; exit "$code"; }

python=${PYTHON:-/usr/bin/python3}
prefix=/opt/firmware-node wheelhouse='' extras='' root='' uninstall='' purge='' tags='' target=''
while [ $# -gt 0 ]; do
    case $1 in
        --uninstall) uninstall=yes; shift; continue ;;
        --purge) purge=yes; shift; continue ;;
        --help | -h) usage; exit 0 ;;
        --wheelhouse | --extras | --prefix | --root | --target-platform | --target-python) ;;
        *) fail 2 "unknown option $1 (--help tells more)" ;;
    esac
    [ $# -ge 2 ] || fail 2 "$1: expected a value"
    case $1 in
        --wheelhouse) wheelhouse=$2 ;;
        --extras) extras=[$2] ;;
        --prefix) prefix=$2 ;;
        --root) root=${2%/} ;;
        --target-platform) tags="$tags --platform $2" ;;
        --target-python) target=$2 ;;
    esac
    shift 2
done
case $prefix in /*) ;; *) fail 2 "--prefix $prefix: expected an absolute path" ;; esac
[ -z "$root" ] || [ -d "$root" ] || fail 2 "--root $root: no such folder"
[ -z "$purge" ] || [ -n "$uninstall" ] || fail 2 "--purge goes with --uninstall"
[ -z "$tags$target" ] || [ -n "$root" ] || fail 2 "--target-platform and --target-python go with --root"
[ -z "$tags" ] || [ -n "$target" ] || fail 2 "--target-platform needs --target-python"
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail 3 "only root can install a service (or see --root)"

units=$root/etc/systemd/system
sysusers=$root/etc/sysusers.d/firmware-node.conf
tmpfiles=$root/etc/tmpfiles.d/firmware-node.conf
link=$root/usr/local/bin/firmware-node

# Whether the running system is the one we install into, and has such a service.
has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }
has_udev() { [ -z "$root" ] && [ -S /run/udev/control ]; }
reload() {
    if has_systemd; then systemctl daemon-reload; fi
    if has_udev; then
        udevadm control --reload
        udevadm trigger --subsystem-match=gpio --subsystem-match=tty
    fi
}
# Instances, and the agent that may run them.
instances() {
    systemctl list-units --all --plain --no-legend "$@" 'firmware-node@*.service' \
        firmware-node-agent.service | cut -d' ' -f1
}

if [ -n "$uninstall" ]; then
    if has_systemd; then
        for unit in $(instances); do systemctl disable --now --quiet "$unit" || true; done
    fi
    # Also instances that are enabled and not loaded, and those of a tree.
    find "$units" -path '*.wants/firmware-node[@-]*.service' -exec rm -f {} + 2>/dev/null || true
    rm -f "$units/firmware-node@.service" "$units/firmware-node-agent.service" \
        "$units/firmware-node@hub.service.d/10-hub.conf" \
        "$sysusers" "$tmpfiles" "$root/etc/udev/rules.d/60-firmware-node.rules"
    rmdir "$units/firmware-node@hub.service.d" 2>/dev/null || true # kept with a drop-in of yours
    [ "$(readlink "$link" 2>/dev/null)" != "$prefix/current/bin/firmware-node" ] || rm -f "$link"
    rm -rf "$root$prefix/releases" "$root$prefix/current"
    rmdir "$root$prefix" 2>/dev/null || true
    if [ -n "$purge" ]; then
        rm -rf "$root/etc/firmware-node" "$root/var/lib/firmware-node" "$root/run/firmware-node"
        if [ -z "$root" ] && getent passwd firmware-node >/dev/null; then userdel firmware-node; fi
    fi
    reload
    say "removed${purge:+, with configuration, keys and state}"
    exit 0
fi

# --- wheels ---------------------------------------------------------------------------------------

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail 3 "$python: expected Python 3.11 or later (set PYTHON)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pip=$python
"$python" -m pip --version >/dev/null 2>&1 || {
    "$python" -m venv "$work/tool" >/dev/null 2>&1 ||
        fail 3 "$python has neither pip nor venv; on Debian install python3-venv"
    pip=$work/tool/bin/python
}
if [ -z "$wheelhouse" ]; then
    wheelhouse=$work/wheels
    # shellcheck disable=SC2086 # one word for each option and tag
    PYTHON=$pip "$tree/scripts/wheelhouse" "$wheelhouse" ${extras:+--extras "${extras#[}"} \
        ${target:+--python "$target"} $tags >&2 || fail 3 "the wheels could not be had"
fi
set -- "$wheelhouse"/firmware_node-*.whl
if [ $# != 1 ] || [ ! -f "$1" ]; then fail 2 "$wheelhouse: expected one firmware_node wheel"; fi
version=${1##*/firmware_node-}
version=${version%%-*}
# The name follows from what is installed: the same again is the same release.
content=$(
    {
        echo "$extras $tags $target"
        cat "$wheelhouse"/*.whl
        cd "$tree/systemd" && find . -type f | LC_ALL=C sort | xargs cat
    } | sha256sum | cut -c1-8
)
name=$version-$content

# --- release --------------------------------------------------------------------------------------

releases=$root$prefix/releases
release=$releases/$name
mkdir -p "$releases"
rm -rf "$releases"/*.part # of an install that was cut
if [ -d "$release" ]; then
    say "release $name is there"
else
    "$python" -m venv --without-pip "$release.part" || fail 3 "$python -m venv failed"
    rm -f "$release.part"/bin/[Aa]ctivate*
    host=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ -n "$target" ] && [ "$target" != "$host" ]; then
        mv "$release.part/lib/python$host" "$release.part/lib/python$target"
        ln -sf /usr/bin/python3 "$release.part/bin/python3"
        rm -f "$release.part/bin/python$host"
    fi
    # Byte code does not ask for the machine, only for the version of Python.
    compile=--compile
    [ "${target:-$host}" = "$host" ] || compile=--no-compile
    # shellcheck disable=SC2086 # one word for each option and tag
    "$pip" -m pip --quiet --disable-pip-version-check install --no-index --find-links "$wheelhouse" \
        --root-user-action ignore --target "$release.part/lib/python${target:-$host}/site-packages" \
        ${target:+--python-version "$target" --implementation cp --only-binary :all:} \
        $compile $tags "firmware-node$extras" >&2 || fail 2 "$wheelhouse: its wheels cannot be installed"
    rm -rf "$release.part/lib/python${target:-$host}/site-packages/bin" # with shebangs of the host
    cat > "$release.part/bin/firmware-node" <<END
#!$prefix/releases/$name/bin/python
import sys

from firmware_node.cli import main

sys.exit(main())
END
    chmod 755 "$release.part/bin/firmware-node"
    bring() { # FILE PATH: a file of the system that belongs to this release
        install -D -m 644 "$tree/systemd/$1" "$release.part/share/system/$2"
        sed -i "s|/opt/firmware-node/|$prefix/|g" "$release.part/share/system/$2"
    }
    for unit in firmware-node@.service firmware-node@hub.service.d/10-hub.conf \
        firmware-node-agent.service; do
        bring "$unit" "etc/systemd/system/$unit"
    done
    bring firmware-node.sysusers etc/sysusers.d/firmware-node.conf
    bring firmware-node.tmpfiles etc/tmpfiles.d/firmware-node.conf
    bring 60-firmware-node.rules etc/udev/rules.d/60-firmware-node.rules
    cp "$tree"/systemd/*.service.d/*.example "$release.part/share"
    if [ -z "$target" ]; then
        "$release.part/bin/python" "$release.part/bin/firmware-node" --version >/dev/null ||
            fail 2 "$wheelhouse: the program in it does not start"
    fi
    chmod -R go-w "$release.part"
    mv -T "$release.part" "$release"
    say "release $name installed"
fi

# --- units, users, folders, rules -----------------------------------------------------------------

lay() { # NAME: its files where the system looks for them
    changed=''
    for file in $(cd "$releases/$1/share/system" && find . -type f); do
        from=$releases/$1/share/system/$file
        cmp -s "$from" "$root/$file" || { install -D -m 644 "$from" "$root/$file"; changed=yes; }
    done
    if [ -z "$root" ] && [ -n "$changed" ]; then
        systemd-sysusers "$sysusers"
        systemd-tmpfiles --create "$tmpfiles"
        reload
    fi
}
lay "$name"
mkdir -p "$(dirname "$link")"
if [ ! -e "$link" ] || [ -L "$link" ]; then ln -sfn "$prefix/current/bin/firmware-node" "$link"; fi

# --- the switch -----------------------------------------------------------------------------------

point() { # NAME: one rename, so that there is a current release at every instant
    ln -sfn "releases/$1" "$root$prefix/current.new"
    mv -fT "$root$prefix/current.new" "$root$prefix/current"
}
restart_all() { # what does not reach READY is left in $unready
    unready=''
    for unit in $running; do
        systemctl restart "$unit" || unready="$unready $unit"
    done
    [ -z "$unready" ]
}
previous=$(readlink "$root$prefix/current" 2>/dev/null || true)
previous=${previous#releases/}
if [ "$previous" = "$name" ] && [ -z "$changed" ]; then
    say "nothing to change"
    exit 0
fi
point "$name"
if has_systemd; then
    running=$(instances --state=active,reloading)
    if [ -n "$running" ] && ! restart_all; then
        bad=$unready
        case $previous in '' | "$name") fail 1 "not ready:$bad (see journalctl)" ;; esac
        point "$previous"
        lay "$previous"
        restart_all || fail 1 "release $name did not get ready in$bad, nor $previous in$unready"
        rm -rf "$release"
        fail 1 "release $name did not get ready in$bad; back on $previous (see journalctl)"
    fi
fi
# The one before is kept: an operator may go back to it by hand.
for old in "$releases"/*; do
    case ${old##*/} in "$name" | "${previous:-$name}") ;; *) rm -rf "$old" ;; esac
done
say "release $name is current${previous:+, was $previous}"
