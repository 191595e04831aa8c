# SPDX-License-Identifier: Apache-2.0
# Sourced by tests/build_matrix.sh: how a case is entered, and what cases share.
declare -A WHAT RUN
CASES=()

# add_case NAME WHAT COMMAND: COMMAND runs in an empty folder with `set -e`; it prints "RESULT: ..." for the table.
add_case() {
    CASES+=("$1")
    WHAT[$1]=$2
    RUN[$1]=$3
}

skip() {
    echo "SKIP: $*"
    exit 77
}

needs() {
    local tool
    for tool in "$@"; do command -v "$tool" >/dev/null || skip "$tool is not installed"; done
}

# library FOLDER CMAKE_OPTION...: configures the C++ library alone, warnings as errors, and builds it.
library() {
    local folder=$1
    shift
    cmake -S "$SOURCE" -B "$folder" -DCMAKE_BUILD_TYPE="$BUILD_TYPE" -DLIGHTWAM_BUILD_PYTHON=OFF \
        -DLIGHTWAM_BUILD_SHARED_LIBRARY=ON -DLIGHTWAM_WARNINGS_AS_ERRORS=ON "$@"
    cmake --build "$folder"
}

# refused TEXT COMMAND...: the command fails and says TEXT (line ends and CMake's line breaks count as spaces).
refused() {
    local text=$1
    shift
    if "$@" >refused.log 2>&1; then
        echo "not refused: $*"
        return 1
    fi
    tr -s '\n ' '  ' <refused.log | grep -F -- "$text" >/dev/null || { cat refused.log; return 1; }
}

# Largest difference between two lists of actions, and whether it is small: rounding differs between compilers.
same_actions() {
    paste "$1" "$2" | awk 'NF != 2 { bad = 1 } { d = $1 - $2; if (d < 0) d = -d; if (!(d <= 2e-4)) bad = 1; if (d > most) most = d }
        END { printf "RESULT: %s%d actions within %.1e\n", prefix, NR, most; exit bad || NR != 112 }' prefix="${3:-}"
}

# The actions of the plain build, made once (the case `reference`).
reference() {
    local actions=$WORK/reference/actions
    if [ ! -s "$actions" ]; then
        mkdir -p "$WORK/reference"
        library "$WORK/reference/library"
        c++ -std=c++17 "$SOURCE/tests/builds/act.cpp" -I"$SOURCE/csrc/include" -o "$WORK/reference/act" \
            -L"$WORK/reference/library" -llightwam -Wl,-rpath,"$WORK/reference/library"
        "$WORK/reference/act" "$ENGINE" "$INSTRUCTION" >"$actions.new"
        mv "$actions.new" "$actions"
    fi
    cp "$actions" reference.txt
}

# compare PROGRAM...: runs it on the bundled engine and compares with the reference.
compare() {
    reference
    "$@" "$ENGINE" "$INSTRUCTION" >actions.txt
    same_actions reference.txt actions.txt
}

case_reference() {
    reference
    same_actions reference.txt reference.txt
}
add_case reference "the plain build, with which the others are compared" case_reference
