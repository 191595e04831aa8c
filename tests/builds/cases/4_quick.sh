# SPDX-License-Identifier: Apache-2.0
# Sourced by tests/build_matrix.sh: what is decided before a compiler runs, and what the development build gives. CI runs
# these (`make test-builds`).
QUICK=()
quick() {
    QUICK+=("$1")
    add_case "$@"
}

configure() { cmake -S "$SOURCE" -B "$@"; }

# says TEXT COMMAND...: the command succeeds and says TEXT.
says() {
    local text=$1
    shift
    "$@" >said.log 2>&1 || { cat said.log; return 1; }
    tr -s '\n ' '  ' <said.log | grep -F -- "$text" >/dev/null || { cat said.log; return 1; }
}

case_no_pybind11() {
    local bare
    bare=$(no_pybind11)
    says "lightwam: the Python extension is not built: " configure auto "$bare" -DLIGHTWAM_BUILD_SHARED_LIBRARY=ON
    refused "the Python extension cannot be built: " configure on "$bare" -DLIGHTWAM_BUILD_PYTHON=ON
    refused "-DLIGHTWAM_BUILD_PYTHON=OFF builds without it" configure on "$bare" -DLIGHTWAM_BUILD_PYTHON=ON
    says "Configuring done" configure off "$bare" -DLIGHTWAM_BUILD_PYTHON=OFF
    grep -q 'CMAKE_BUILD_TYPE:STRING=Release' off/CMakeCache.txt
}
quick no-pybind11 "LIGHTWAM_BUILD_PYTHON=AUTO, ON, OFF without pybind11" case_no_pybind11

# A stand-in for an interpreter without its global lock: a real one says in sysconfig what this one says.
case_free_threaded_said() {
    mkdir -p site
    printf 'import sysconfig\nsysconfig.get_config_vars()["Py_GIL_DISABLED"] = 1\n' >site/sitecustomize.py
    says "is free-threaded" env "PYTHONPATH=$PWD/site" cmake -S "$SOURCE" -B auto -DPython_EXECUTABLE="$(command -v "$PYTHON")"
    refused "is free-threaded" env "PYTHONPATH=$PWD/site" cmake -S "$SOURCE" -B on -DLIGHTWAM_BUILD_PYTHON=ON \
        -DPython_EXECUTABLE="$(command -v "$PYTHON")"
}
quick free-threaded "an interpreter that says it is free-threaded: refused" case_free_threaded_said

case_fast_math_said() {
    says "lightwam is compiled without -Ofast -ffast-math, which would change the actions" configure flags \
        -DLIGHTWAM_BUILD_PYTHON=OFF "-DCMAKE_CXX_FLAGS=-ffast-math -g -Ofast"
    ! grep -h '^ *FLAGS = .*\(-Ofast\|-ffast-math\)' flags/build.ninja flags/csrc/*/CMakeFiles/*/flags.make 2>/dev/null
}
quick fast-math-said "fast math in the flags: said, and in no command" case_fast_math_said

# A compiler, or its assembler, without AVX-VNNI: that level is left out, the rest is built.
case_level_left_out() {
    cat >cxx <<'END'
#!/bin/sh
for word; do [ "$word" = -mavxvnni ] && { echo "unknown option -mavxvnni" >&2; exit 1; }; done
exec c++ "$@"
END
    chmod +x cxx
    says "this compiler lacks -mavx2 -mfma -mavxvnni; the instruction-set level avx2_vnni is left out" \
        configure out -DLIGHTWAM_BUILD_PYTHON=OFF "-DCMAKE_CXX_COMPILER=$PWD/cxx" -DCMAKE_EXPORT_COMPILE_COMMANDS=ON
    grep -F 'kernels.cpp' out/compile_commands.json | grep -F 'LIGHTWAM_TABLE_avx2_vnni=nullptr'
    ! grep -F 'kAvx2VnniTable' out/compile_commands.json
}
[ "$(uname -m)" = x86_64 ] && quick level-left-out "a compiler without -mavxvnni" case_level_left_out

case_parent() {
    local shared
    for shared in OFF ON; do
        cmake -S "$SOURCE/tests/builds/parent" -B "parent-$shared" "-DLIGHTWAM=$SOURCE" -DBUILD_SHARED_LIBS=$shared
    done
    [ "$GENERATOR" = Ninja ] || return 0
    # Under the parent's flags: -ffast-math would trip policy.cpp's own check, -fno-exceptions and -Werror the rest.
    cmake --build parent-OFF --target lightwam/csrc/runtime/CMakeFiles/lightwam_runtime.dir/policy.cpp.o \
        lightwam/csrc/cpu/CMakeFiles/lightwam_cpu.dir/kernels.cpp.o
}
quick parent "add_subdirectory, static and shared: the parent's settings are untouched" case_parent

# The public headers, under the warnings of strict projects, by every compiler that is here.
case_headers() {
    local cc cxx standard strict="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -I$SOURCE/csrc/include"
    printf '#include <lightwam/policy.h>\nint main(void) { return 0; }\n' | tee header.c >header.cpp
    printf '#include <lightwam/policy.hpp>\nint main() { return lightwam::kStageCount - 6; }\n' >headers.cpp
    for cc in cc gcc-11 gcc-12 gcc-13 gcc-14 clang-14 clang-15 clang-16 clang-17 clang-18 clang-19; do
        case $cc in cc) cxx=c++ ;; gcc*) cxx=g++${cc#gcc} ;; *) cxx=clang++${cc#clang} ;; esac
        command -v "$cc" >/dev/null && command -v "$cxx" >/dev/null || continue
        for standard in c99 c11 c2x; do "$cc" $strict -std=$standard -c header.c -o header.o; done
        for standard in c++11 c++17 c++20 c++2b; do "$cxx" $strict -std=$standard -c header.cpp -o header.o; done
        for standard in c++17 c++20 c++2b; do
            "$cxx" $strict -std=$standard -fno-exceptions -fno-rtti -c headers.cpp -o headers.o
        done
        refused "policy.hpp needs C++17 or newer" "$cxx" -std=c++14 "-I$SOURCE/csrc/include" -c headers.cpp -o headers.o
    done
}
quick headers "the public headers in C99 to C23 and C++11 to C++23, strict warnings" case_headers

case_installed_development() {
    [ -f "$SOURCE/build/test/CMakeCache.txt" ] || skip "there is no build/test (make develop)"
    DESTDIR="$PWD/staged" cmake --install "$SOURCE/build/test" --component library --prefix /opt/robot
    mv staged/opt/robot "moved and renamed"
    cmake -S "$SOURCE/tests/builds/consumer" -B consumer "-DCMAKE_PREFIX_PATH=$PWD/moved and renamed" -DKIND=shared
    cmake --build consumer
    consumer/act_c "$ENGINE" "$INSTRUCTION" >c.txt
    consumer/act_cpp "$ENGINE" "$INSTRUCTION" >cpp.txt
    cmp c.txt cpp.txt
    [ "$(wc -l <c.txt)" -eq 112 ]
}
quick installed-development "the development build: DESTDIR, moved prefix, find_package from C99 and C++17" \
    case_installed_development
