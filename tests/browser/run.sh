#!/usr/bin/env bash
# Runs the tests of the dashboard in a real browser: tests/browser/run.sh [-v] [-k WORD].
# Installs Chromium where it is missing; all else is that of tests/real/run.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v chromium >/dev/null; then
    as_root=()
    ((EUID == 0)) || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends chromium
fi
exec tests/real/run.sh --start-directory tests/browser "$@"
