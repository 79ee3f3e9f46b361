#!/usr/bin/env bash
# Runs the tests against real backends: tests/real/run.sh [-v] [-k WORD].
# Makes what is missing: Debian packages (load clients, what disturbs networks, Prometheus, shells),
# the backends' virtual environment in target/ (kept between runs), and the release binary.
# The long soak is a program of its own: see tests/real/soak.py.
set -euo pipefail
cd "$(dirname "$0")/../.."

missing=()
command -v wrk >/dev/null || missing+=(wrk)
command -v h2load >/dev/null || missing+=(nghttp2-client)
command -v curl >/dev/null || missing+=(curl)
# With promtool; only the programs are used, not its service.
command -v prometheus >/dev/null || missing+=(prometheus)
# The readers of manual pages and completions.
command -v man >/dev/null || missing+=(man-db)
command -v zsh >/dev/null || missing+=(zsh)
command -v fish >/dev/null || missing+=(fish)
if ((EUID == 0)); then
    # Others can't make networks to disturb.
    command -v nft >/dev/null || missing+=(nftables)
    command -v ip >/dev/null || missing+=(iproute2)
fi
if ((${#missing[@]})); then
    as_root=()
    ((EUID == 0)) || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

venv=target/real-venv
lists=(docker/legacy/requirements.txt docker/async/requirements.txt tests/real/requirements.txt)
wanted=$(cat "${lists[@]}")
if [[ $(cat "$venv/installed.txt" 2>/dev/null) != "$wanted" ]]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "${lists[@]/#/--requirement=}"
    # Written last, so that an installation which was cut off is done again.
    echo "$wanted" >"$venv/installed.txt"
fi

[[ -x target/release/cutover ]] || cargo build --release --locked

# Nothing is compiled beside the sources. The tests bound each of their waits; this bounds them all.
export PYTHONDONTWRITEBYTECODE=1
exec timeout --foreground --kill-after=10 900 \
    "$venv/bin/python" -m unittest discover --start-directory tests/real "$@"
