#!/usr/bin/env bash
# Runs every fuzz target for so many seconds in total, the build not counted: fuzz/run.sh [SECONDS].
# Each gets its share, but no less than 20 seconds. Begins with the corpus, and leaves it as it is: what is
# new goes to fuzz/target/found/, and an input that breaks something to fuzz/artifacts/.
set -euo pipefail
cd "$(dirname "$0")"

targets=(config route_template proxy_protocol forwarded compare client_connection backend_reply)
seconds=$((${1:-150} / ${#targets[@]}))
((seconds >= 20)) || seconds=20
# What one input may take, of which a busy machine needs most; the peers' own patience is 10 seconds.
input_seconds=30

if ! command -v cargo-fuzz >/dev/null; then
    cargo install --quiet --locked --root target/tools cargo-fuzz
    PATH=$PWD/target/tools/bin:$PATH
fi
# Without a sanitizer of memory, as there is no unsafe code here; so stable Rust is enough. Without
# `cfg(fuzzing)`, so that what is tried is what is shipped. Line numbers cost too much time here.
RUSTFLAGS="-Cdebuginfo=0 ${RUSTFLAGS:-}" cargo fuzz build --fuzz-dir . --sanitizer none --no-cfg-fuzzing \
    --codegen-units 16

host=$(rustc -vV | sed -n 's/^host: //p')
# The proxies' state directories.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
mkdir -p artifacts
for target in "${targets[@]}"; do
    found=target/found/$target
    log=$TMPDIR/$target.log
    mkdir -p "$found"
    dictionary=()
    [[ ! -e dict/$target.dict ]] || dictionary=("-dict=dict/$target.dict")
    if ! timeout --kill-after=10 $((seconds + 120)) "target/$host/release/$target" \
        -max_total_time="$seconds" -timeout="$input_seconds" -max_len=4096 -print_final_stats=1 \
        -artifact_prefix="artifacts/$target-" "${dictionary[@]}" "$found" "corpus/$target" >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "fuzz: $target failed; the input is in fuzz/artifacts/" >&2
        exit 1
    fi
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "fuzz: $target: $executions executions in $seconds s"
done
