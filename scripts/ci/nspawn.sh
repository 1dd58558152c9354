#!/usr/bin/env bash
# Proves the service under a real systemd: a container on a private copy of this machine, in which
# nspawn_proof.py installs, runs, hurts and updates it, on the virtual air and then on virtual
# sticks. Downloads nothing but the wheels.
set -euo pipefail
tree=$(cd "$(dirname "$0")/../.." && pwd -P)
limit_s=400

skip() { echo "SKIP: nspawn proof: $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip "only root can start a container"
if [ -n "${CI:-}" ] && command -v apt-get >/dev/null &&
    ! dpkg -s systemd-container libfaketime >/dev/null 2>&1; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        systemd-container libfaketime
fi
command -v systemd-nspawn >/dev/null || skip "no systemd-nspawn (Debian package systemd-container)"
[ -x /usr/bin/python3 ] || skip "no /usr/bin/python3"

top=$(mktemp -d)
clean() {
    umount "$top/root" 2>/dev/null || umount -l "$top/root" 2>/dev/null || true
    umount "$top" 2>/dev/null || umount -l "$top" 2>/dev/null || true
    rmdir "$top"
}
trap clean EXIT
mount -t tmpfs proof "$top"
mkdir "$top/upper" "$top/work" "$top/root" "$top/out"

"$tree/scripts/wheelhouse" "$top/out/wheels" --extras radio,fleet
# Two further releases: one that only differs, and one whose daemon cannot start.
"$tree/.venv/bin/python" "$tree/scripts/ci/spoil_wheel.py" "$top/out/wheels" "$top/out/newer" ""
"$tree/.venv/bin/python" "$tree/scripts/ci/spoil_wheel.py" "$top/out/wheels" "$top/out/broken" \
    "raise OSError('this release cannot start')"

mount -t overlay proof -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/root"
cat > "$top/root/etc/systemd/system/proof.service" <<'END'
[Unit]
Description=the proof
After=basic.target systemd-tmpfiles-setup.service
Requires=basic.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -u /mnt/tree/scripts/ci/nspawn_proof.py /mnt/tree /mnt/out
StandardOutput=journal+console
StandardError=journal+console
ExecStopPost=/bin/systemctl poweroff --no-block
END
# Only what the proof needs is started, not what this machine itself would run.
timeout --kill-after=10 "$limit_s" systemd-nspawn --quiet --directory="$top/root" \
    --private-network --register=no --keep-unit --bind-ro="$tree:/mnt/tree" \
    --bind="$top/out:/mnt/out" --boot systemd.unit=proof.service quiet \
    </dev/null >"$top/out/console" 2>&1 || true
cat "$top/out/report" 2>/dev/null || true
if [ "$(cat "$top/out/result" 2>/dev/null)" != passed ]; then
    echo "nspawn proof: failed; the end of the console:" >&2
    tail -n 80 "$top/out/console" >&2
    exit 1
fi
