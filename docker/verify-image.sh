#!/usr/bin/env bash
# Builds the image without a registry, and checks what the Dockerfile promises by running it:
#   docker/verify-image.sh                  all of it; the compiler runs in the image: minutes
#   docker/verify-image.sh --program FILE   with a program that was built already: the last stage
# Both bases are made here, from Debian's packages and this machine's Rust. Wants root, for the parts
# of a container that are used: chroot, a read-only root, a network and processes of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
((EUID == 0)) || { echo "run it as root" >&2; exit 2; }

missing=()
command -v buildah >/dev/null || missing+=(buildah)
command -v debootstrap >/dev/null || missing+=(debootstrap)
command -v curl >/dev/null || missing+=(curl)
command -v ip >/dev/null || missing+=(iproute2)
if ((${#missing[@]})); then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# All that it makes is here. The base and the caches of the build are kept for the next run.
work=$PWD/target/image
mkdir -p "$work/tmp"
cat >"$work/storage.conf" <<CONF
[storage]
driver = "vfs"
runroot = "$work/run"
graphroot = "$work/store"
CONF
export CONTAINERS_STORAGE_CONF=$work/storage.conf BUILDAH_ISOLATION=chroot TMPDIR=$work/tmp
trap 'rm -rf "$work/store" "$work/run" "$work/rust"' EXIT

# image_of FOLDER NAME [--env ...]: makes a folder the image of that name.
image_of() {
    local container
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$1" / >/dev/null
    buildah config "${@:3}" "$container"
    buildah commit --quiet --rm "$container" "docker.io/library/$2" >/dev/null
}

debian() {
    [[ -e $work/debian/complete ]] && return
    rm -rf "$work/debian"
    debootstrap --variant=minbase --include=ca-certificates bookworm "$work/debian" \
        >"$work/debootstrap.log"
    rm -rf "$work"/debian/var/{cache/apt,lib/apt/lists}/*
    touch "$work/debian/complete"
}

# As the official one: a C compiler, and Rust in the path. This machine's own certificate
# authorities are believed, as a registry of crates may be behind one of them.
rust() {
    rm -rf "$work/rust"
    cp -a "$work/debian" "$work/rust"
    chroot "$work/rust" sh -ec 'apt-get update -qq
        apt-get install -y -qq --no-install-recommends gcc libc6-dev' >"$work/rust.log" 2>&1
    cp /etc/ssl/certs/ca-certificates.crt "$work/rust/etc/ssl/certs/"
    mkdir -p "$work"/rust/usr/local/{cargo,toolchain}
    cp -a "$(rustc --print sysroot)"/{bin,lib} "$work/rust/usr/local/toolchain/"
}

debian
image_of "$work/debian" debian:bookworm-slim
build=(buildah bud --pull-never --format docker --tag cutover-verify)
if [[ ${1-} == --program ]]; then
    # The last stage as it is, with a folder in place of the first one.
    mkdir -p "$work/built"
    install "$2" "$work/built/cutover"
    sed -n '/^FROM debian/,$p' Dockerfile >"$work/Dockerfile"
    "${build[@]}" --build-context "build=$work/built" --file "$work/Dockerfile" "$work/built" \
        >"$work/build.log" 2>&1 || { tail -20 "$work/build.log" >&2; exit 1; }
else
    rust
    image_of "$work/rust" rust:1-slim-bookworm --env CARGO_HOME=/usr/local/cargo \
        --env PATH=/usr/local/toolchain/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    rm -rf "$work/rust"
    "${build[@]}" --file Dockerfile .
fi
python3 docker/verify_image.py "$work"
