#!/usr/bin/env bash
# Checks the newest target/debian/cutover_*.deb: lintian, then installs, uses, removes and purges it in
# a Debian root of its own. As root: docker/debian/verify.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
((EUID == 0)) || { echo "run it as root" >&2; exit 2; }

missing=()
command -v debootstrap >/dev/null || missing+=(debootstrap)
command -v lintian >/dev/null || missing+=(lintian)
if ((${#missing[@]})); then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

package=$(ls -t "${CARGO_TARGET_DIR:-target}"/debian/cutover_*.deb | head -1)
echo "package: $package"
lintian --allow-root --fail-on error,warning "$package"

work=$PWD/target/deb-root
rm -rf "$work"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"
# With the readers of what it brings; in a smaller root dpkg would leave manual pages out.
debootstrap --variant=minbase --include=man-db,bash-completion,systemd bookworm "$work" >"$work.log"
cp "$package" "$work/cutover.deb"
chroot "$work" bash -euxo pipefail -c '
    dpkg --install cutover.deb
    cutover --version
    cutover check /etc/cutover/cutover.toml
    man cutover | grep -q "EXIT STATUS"
    man cutover.toml | grep -q async_weight
    man cutover-ramp-approve | grep -q approve
    bash -c "source /usr/share/bash-completion/bash_completion; _completion_loader cutover; complete -p cutover"
    test ! -e /etc/systemd/system/multi-user.target.wants/cutover.service   # that is the operator'"'"'s to do
    grep -q /usr/bin/cutover /usr/lib/systemd/system/cutover.service
    # Of all that systemd could find fault with, only the type that this version does not know yet.
    systemd-analyze verify cutover.service >verify.log 2>&1 || true
    cat verify.log
    test -z "$(grep -v "ignoring: notify-reload" verify.log)"
    # An edited config survives an upgrade and a removal, and goes with a purge.
    echo "# edited" >>/etc/cutover/cutover.toml
    dpkg --install cutover.deb </dev/null
    tail -1 /etc/cutover/cutover.toml | grep -q edited
    dpkg --remove cutover
    test ! -e /usr/bin/cutover
    tail -1 /etc/cutover/cutover.toml | grep -q edited
    dpkg --purge cutover
    test ! -e /etc/cutover
    test ! -L /etc/systemd/system/cutover.service
    ! dpkg --status cutover 2>/dev/null
'
echo "package: installed, used, removed and purged"
