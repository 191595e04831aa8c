# SPDX-License-Identifier: Apache-2.0
# Sourced by tests/build_matrix.sh: compilers, flags and targets.

# The library with one compiler, without a warning, and a C and a C++ program of the same compiler.
with_compiler() {
    local cc=$1 cxx=$2
    shift 2
    library library -DCMAKE_CXX_COMPILER="$cxx" "$@"
    "$cc" -std=c99 -Wall -Wextra -Wpedantic -Werror -I"$SOURCE/csrc/include" "$SOURCE/tests/builds/act.c" -o act_c \
        -L"$PWD/library" -llightwam -Wl,-rpath,"$PWD/library"
    "$cxx" -std=c++17 -Wall -Wextra -Wpedantic -Werror -I"$SOURCE/csrc/include" "$SOURCE/tests/builds/act.cpp" \
        -o act_cpp -L"$PWD/library" -llightwam -Wl,-rpath,"$PWD/library"
    compare ./act_c
    compare ./act_cpp
}

case_gcc() {
    local version=${CASE#gcc-}
    needs "g++-$version"
    with_compiler "gcc-$version" "g++-$version"
}
case_clang() {
    local version=${CASE#clang-}
    needs "clang++-$version"
    with_compiler "clang-$version" "clang++-$version"
}
for version in 11 12 13 14; do add_case gcc-$version "GCC $version, no warning" case_gcc; done
for version in 14 15 16 17 18 19; do add_case clang-$version "Clang $version, no warning" case_clang; done

case_older_clang() {
    needs clang++-13
    refused "lightwam needs GCC 11, Clang 14 or newer; this is Clang 13" library library -DCMAKE_CXX_COMPILER=clang++-13
    echo "RESULT: refused, one line"
}
add_case clang-13 "an older compiler" case_older_clang

case_flags() { with_compiler cc c++ -DCMAKE_CXX_FLAGS="${FLAGS[$CASE]}" ${OPTIONS[$CASE]:-}; }
declare -A FLAGS OPTIONS
flags() {
    FLAGS[$1]=$2
    OPTIONS[$1]=${3:-}
    add_case "$1" "CMAKE_CXX_FLAGS='$2' ${3:-}" case_flags
}
flags flags-native "-march=native"
flags flags-debug "-O0" -DCMAKE_BUILD_TYPE=Debug
flags flags-lto "" -DCMAKE_INTERPROCEDURAL_OPTIMIZATION=ON
flags flags-no-exceptions "-fno-exceptions -fno-rtti"
flags flags-assertions "-D_GLIBCXX_ASSERTIONS -fstack-protector-strong -fno-plt -funsigned-char"

# Fast math is taken out, at compiling and at linking (GCC 12 links code that turns denormal numbers off).
case_fast_math() {
    needs readelf
    with_compiler cc c++ -DCMAKE_CXX_FLAGS="-O3 -ffast-math -Ofast" 2>configure.log
    cat configure.log
    tr -s '\n ' '  ' <configure.log | grep -F "lightwam is compiled without -Ofast -ffast-math" >/dev/null
    cmp reference.txt actions.txt
    ! readelf -Ws --dyn-syms library/liblightwam.so | grep set_fast_math
}
add_case flags-fast-math "CMAKE_CXX_FLAGS='-O3 -ffast-math -Ofast': taken out, the same bits" case_fast_math

case_m32() {
    echo 'int main() { return 0; }' >empty.cpp
    c++ -m32 empty.cpp -o empty 2>/dev/null || skip "this compiler has no 32-bit libraries"
    refused "lightwam needs a 64-bit target" library library -DCMAKE_CXX_FLAGS=-m32
    echo "RESULT: refused, one line"
}
add_case flags-m32 "-m32" case_m32

# ARM64 as Jetson has it: built here, run by an emulator.
case_aarch64() {
    local emulator
    needs aarch64-linux-gnu-g++-12
    emulator=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
    [ -n "$emulator" ] || skip "qemu-user is not installed"
    library library -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
        -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++-12
    aarch64-linux-gnu-g++-12 -std=c++17 -I"$SOURCE/csrc/include" "$SOURCE/tests/builds/act.cpp" -o act \
        -L"$PWD/library" -llightwam -Wl,-rpath,"$PWD/library"
    compare "$emulator" -L /usr/aarch64-linux-gnu ./act
}
add_case aarch64 "cross-compiled for ARM64 (GCC 12), run by qemu" case_aarch64

# A static musl program; the compiler is in the Python package ziglang.
case_musl() {
    "$PYTHON" -m ziglang version 2>/dev/null || skip "the Python package ziglang is not installed"
    printf '#!/bin/sh\nexec %s -m ziglang c++ -target x86_64-linux-musl "$@"\n' "$(command -v "$PYTHON")" >zigcxx
    chmod +x zigcxx
    library library -DCMAKE_CXX_COMPILER="$PWD/zigcxx" -DLIGHTWAM_BUILD_SHARED_LIBRARY=OFF \
        -DLIGHTWAM_BUILD_STATIC_LIBRARY=ON
    ./zigcxx -static -std=c++17 -I"$SOURCE/csrc/include" "$SOURCE/tests/builds/act.cpp" library/liblightwam.a -o act
    compare ./act
}
add_case musl "static, musl and libc++ (zig c++)" case_musl
