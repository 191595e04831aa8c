#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds lightwam in the ways that other people build it, and runs the bundled policy in each: the actions must be those
# of the plain build. Prints a table; a case whose compiler, interpreter or tool is missing is skipped by name.
#   tests/build_matrix.sh [--list] [CASE...]     all cases without names; `quick`: those that compile next to nothing
# The exit status is 1 if a case failed.
# Environment: WORK (build/matrix), JOBS (2), PYTHON (python3), GENERATOR (Ninja where it is installed), BUILD_TYPE
# (Release; Debug compiles in a quarter of the time), KEEP=1 (leaves the folders). ccache is used where it is installed.
set -uo pipefail
SOURCE=$(cd "$(dirname "$0")/.." && pwd)
WORK=${WORK:-$SOURCE/build/matrix}
JOBS=${JOBS:-2}
BUILD_TYPE=${BUILD_TYPE:-Release}
PYTHON=${PYTHON:-python3}
GENERATOR=${GENERATOR:-$(command -v ninja >/dev/null && echo Ninja || echo Unix Makefiles)}
ENGINE=$SOURCE/python/lightwam/assets/nano-libero-object-0.lwam
INSTRUCTION="pick up the alphabet soup and place it in the basket"
export CMAKE_GENERATOR="$GENERATOR" CMAKE_BUILD_PARALLEL_LEVEL="$JOBS" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
# CMake's and scikit-build-core's own variables, for cases that give no build type.
[ "$BUILD_TYPE" = Release ] || export CMAKE_BUILD_TYPE="$BUILD_TYPE" SKBUILD_CMAKE_BUILD_TYPE="$BUILD_TYPE"
if command -v ccache >/dev/null; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
    export CCACHE_NOHASHDIR=1 CCACHE_BASEDIR=${CCACHE_BASEDIR:-$SOURCE}
fi

for part in "$SOURCE"/tests/builds/cases/*.sh; do . "$part"; done

run_case() {
    local name=$1 folder=$WORK/$1 log=$WORK/$1.log began=$SECONDS status result what
    rm -rf "$folder" && mkdir -p "$folder"
    what=${WHAT[$name]}
    (set -e; cd "$folder"; CASE=$name FOLDER=$folder; "${RUN[$name]}") >"$log" 2>&1 </dev/null
    status=$?
    case $status in
        0) result=$(sed -n 's/^RESULT: //p' "$log" | tail -n 1); result="ok${result:+: $result}" ;;
        77) result="skipped: $(sed -n 's/^SKIP: //p' "$log" | tail -n 1)" ;;
        *) result="FAILED ($log)"; failed=1; tail -n 15 "$log" >&2 ;;
    esac
    [ "$status" -eq 0 ] && [ -z "${KEEP:-}" ] && [ "$name" != reference ] && rm -rf "$folder"
    printf '| %s | %s | %s | %s |\n' "$name" "$what" "$result" "$((SECONDS - began))"
}

if [ "${1:-}" = --list ]; then
    for name in "${CASES[@]}"; do printf '%-22s %s\n' "$name" "${WHAT[$name]}"; done
    exit 0
fi
[ "${1:-}" = quick ] && set -- "${QUICK[@]}" "${@:2}"
for name in "$@"; do
    [ -n "${RUN[$name]:-}" ] || { echo "$0: no case '$name'; --list has them" >&2; exit 2; }
done
[ $# -gt 0 ] || set -- "${CASES[@]}"
mkdir -p "$WORK"
failed=0
echo "| case | what | result | seconds |"
echo "|---|---|---|---|"
for name in "$@"; do run_case "$name"; done
exit $failed
