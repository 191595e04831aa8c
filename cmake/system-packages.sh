#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the system packages that the build and the simulator's off-screen rendering need (Debian, Ubuntu).
# With --tests: also the browser in which tests open a page; only on Debian (Ubuntu has it as a snap alone).
# As root: installs what is missing. Otherwise: prints the one line to run, and fails.
set -euo pipefail

if ! command -v dpkg-query >/dev/null; then
    echo "lightwam: this is neither Debian nor Ubuntu; install a C++20 compiler, Python headers and OSMesa or EGL yourself" >&2
    exit 0
fi

if [ "$(id -u)" -eq 0 ] && ! apt-cache show g++ >/dev/null 2>&1; then
    apt-get update -qq # a machine without package lists: nothing can be looked up or installed before this
fi

wanted=(g++ make python3-venv python3-dev libgl1 libglib2.0-0 libxcb1)
# Mesa 25.1 removed OSMesa; newer distributions render through EGL instead.
if apt-cache show libosmesa6 >/dev/null 2>&1 || dpkg-query -W libosmesa6 >/dev/null 2>&1; then
    wanted+=(libosmesa6)
else
    wanted+=(libegl1 libgl1-mesa-dri)
fi

# Nobody is made to install a browser: without one those tests are skipped.
if [ "${1:-}" = --tests ] && [ "$(id -u)" -eq 0 ] && grep -qx 'ID=debian' /etc/os-release; then
    wanted+=(chromium)
fi

installed() {
    local name
    for name in "$1" "$1t64"; do # Ubuntu 24.04 and Debian 13 renamed libraries for 64-bit time
        [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$name" 2>/dev/null)" = "ii " ] && return 0
    done
    return 1
}

missing=()
for name in "${wanted[@]}"; do installed "$name" || missing+=("$name"); done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "lightwam: system packages are missing; run this, then repeat your command:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
fi
echo "lightwam: installing system packages: ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
