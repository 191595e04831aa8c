# SPDX-License-Identifier: Apache-2.0
# Sourced by tests/build_matrix.sh: the library in other people's projects, and odd places for the sources.

# A Python without pybind11 for the cases that must do without.
no_pybind11() {
    mkdir -p bare
    printf '#!/bin/sh\necho "No module named pybind11" >&2\nexit 1\n' >bare/python3
    chmod +x bare/python3
    echo "-DPython_EXECUTABLE=$PWD/bare/python3"
}

# The documented commands, then programs that find the package after it was moved.
case_installed() {
    local kind=${CASE#installed-} upper where
    upper=$(echo "$kind" | tr a-z A-Z)
    cmake -S "$SOURCE" -B library "-DLIGHTWAM_BUILD_${upper}_LIBRARY=ON" "$(no_pybind11)" | tee configure.log
    grep -F "the Python extension is not built: " configure.log
    cmake --build library
    DESTDIR="$PWD/staged" cmake --install library --component library --prefix /opt/robot
    [ "$(ls)" = "$(printf '%s\n' bare configure.log library staged)" ] # nothing beside DESTDIR
    where="$PWD/moved and renamed"
    mv staged/opt/robot "$where"
    mv library library-away # the package must not point into the build folder
    cmake -S "$SOURCE/tests/builds/consumer" -B consumer "-DCMAKE_PREFIX_PATH=$where" -DKIND="$kind"
    cmake --build consumer
    compare consumer/act_c
    compare consumer/act_cpp
    cmake -S "$SOURCE/tests/cpp/package" -B c_only "-DCMAKE_PREFIX_PATH=$where" # a project without C++
    cmake --build c_only
    c_only/somebody_elses "$SOURCE/tests/data/engines"
    case $kind in
        shared) # exports the headers' names alone
            ! nm -D --defined-only -C "$where"/lib*/liblightwam.so "$where"/lib/*/liblightwam.so 2>/dev/null |
                grep ' [A-Z] ' | grep -vE ' (lightwam_|lightwam::|(typeinfo|typeinfo name|vtable) for lightwam::)' ;;
        static) refused "no component 'shared'" cmake -S "$SOURCE/tests/builds/consumer" -B other \
                    "-DCMAKE_PREFIX_PATH=$where" -DKIND=shared ;;
    esac
}
add_case installed-shared "no pybind11; DESTDIR; moved prefix; find_package from C99 and C++17" case_installed
add_case installed-static "the same with liblightwam.a" case_installed

case_pkg_config() {
    needs pkg-config
    library library
    cmake --install library --component library --prefix "$PWD/prefix"
    mv prefix moved
    PKG_CONFIG_PATH=$(dirname "$(find "$PWD/moved" -name lightwam.pc)")
    export PKG_CONFIG_PATH
    pkg-config --exact-version=0.1.0 lightwam
    cc -std=c99 "$SOURCE/tests/builds/act.c" -o act $(pkg-config --cflags --libs lightwam) \
        "-Wl,-rpath,$(pkg-config --variable=prefix lightwam)/lib:$(dirname "$PKG_CONFIG_PATH")"
    compare ./act
}
add_case pkg-config "a C program by pkg-config, moved prefix" case_pkg_config

# add_subdirectory: the parent's settings stay, its hostile flags do not reach the actions.
case_subproject() {
    local shared=OFF
    [ "$CASE" = subproject-shared ] && shared=ON
    cmake -S "$SOURCE/tests/builds/parent" -B parent "-DLIGHTWAM=$SOURCE" -DBUILD_SHARED_LIBS=$shared \
        -DCMAKE_BUILD_TYPE=Release
    cmake --build parent
    compare parent/out/act_c
    cmake --install parent --prefix "$PWD/prefix"
    [ "$(cd prefix && find . -type f)" = ./bin/act_c ] # the parent's own install rules and no more
}
add_case subproject-static "add_subdirectory under -Werror -ffast-math -fno-exceptions, unity build" case_subproject
add_case subproject-shared "the same with BUILD_SHARED_LIBS" case_subproject

case_fetch_content() {
    copy_sources fetched
    printf '%s\n' 'cmake_minimum_required(VERSION 3.22)' 'project(robot LANGUAGES C CXX)' 'include(FetchContent)' \
        "FetchContent_Declare(lightwam URL \"$PWD/fetched.tar.gz\")" 'FetchContent_MakeAvailable(lightwam)' \
        "add_executable(act \"$SOURCE/tests/builds/act.cpp\")" 'target_link_libraries(act PRIVATE lightwam::lightwam)' \
        >CMakeLists.txt
    tar czf fetched.tar.gz fetched
    cmake -S . -B build
    cmake --build build
    compare build/act
}
add_case fetch-content "FetchContent from an archive, no build type" case_fetch_content

# Two copies of lightwam in one process: the extension, and liblightwam.so with all its symbols global.
case_two_copies() {
    library library
    pip_wheel "$SOURCE" "$PYTHON"
    "$PYTHON" -m venv venv
    venv/bin/pip install --quiet wheels/lightwam-*.whl
    reference
    printf 'import ctypes, os, runpy, sys\nctypes.CDLL(sys.argv[2], os.RTLD_NOW | os.RTLD_GLOBAL)\n%s\n' \
        'sys.argv[1:] = [sys.argv[3]]; runpy.run_path(os.environ["ACT"])' >both.py
    ACT=$SOURCE/tests/builds/act.py venv/bin/python both.py - "$PWD/library/liblightwam.so" "$INSTRUCTION" >actions.txt
    same_actions reference.txt actions.txt
}
add_case two-copies "the extension beside a global liblightwam.so" case_two_copies

# copy_sources FOLDER: what is in the repository, without .git.
copy_sources() {
    mkdir -p "$1"
    if git -C "$SOURCE" rev-parse --git-dir >/dev/null 2>&1; then
        (cd "$SOURCE" && git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c \
            'for f; do [ -e "$f" ] && printf "%s\0" "$f"; done' - | tar c --null -T -) | tar x -C "$1"
    else
        tar c -C "$SOURCE" --exclude=./build --exclude=./.venv --exclude='*.so' . | tar x -C "$1"
    fi
}

case_path() {
    local tree="$PWD/a path with spaces/und ein Häuschen 机器人"
    copy_sources "$tree"
    ! [ -e "$tree/.git" ]
    SOURCE=$tree CCACHE_BASEDIR=$tree with_compiler cc c++
    install_and_act "$tree"
}
add_case odd-path "spaces and non-ASCII letters in the path, no git" case_path

case_symlink() {
    ln -s "$SOURCE" link
    SOURCE=$PWD/link with_compiler cc c++
    install_and_act "$PWD/link"
}
add_case symlink "the checkout behind a symbolic link" case_symlink

# A checkout that cannot be written: a read-only mount for root, permissions for others.
in_read_only_tree() {
    "$PYTHON" -m venv venv
    venv/bin/pip install --quiet cmake ninja "pybind11>=3.0" ./tree
    venv/bin/cmake -S tree -B cmake -DPython_EXECUTABLE="$PWD/venv/bin/python" | tee configure.log
    grep -F "is read-only, so the extension stays in" configure.log
    act_in_venv
}
case_read_only() {
    copy_sources tree
    if [ "$(id -u)" -ne 0 ]; then
        chmod -R a-w tree
        in_read_only_tree
        chmod -R u+w tree
        return
    fi
    unshare -m true 2>/dev/null || skip "root may not make a mount namespace here"
    export -f in_read_only_tree act_in_venv reference same_actions
    export SOURCE WORK INSTRUCTION PYTHON
    unshare -m bash -ec 'mount --bind tree tree && mount -o remount,ro,bind tree && ! touch tree/x 2>/dev/null
        in_read_only_tree'
}
add_case read-only "pip install and cmake from sources that cannot be written" case_read_only
