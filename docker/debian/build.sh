#!/usr/bin/env bash
# Builds target/debian/cutover_*.deb: docker/debian/build.sh. Wants `cargo install cargo-deb --locked`.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo build --release --locked
program=${CARGO_TARGET_DIR:-target}/release/cutover
# What Cargo.toml's [package.metadata.deb] takes beside the program: made by the program itself.
made=target/packaging
rm -rf "$made"
"$program" man "$made/man"
for shell in bash zsh fish; do
    "$program" completions "$shell" >"$made/cutover.$shell"
done
gzip -9n <CHANGELOG.md >"$made/changelog.gz"
exec cargo deb --no-build --no-strip --locked "$@"
