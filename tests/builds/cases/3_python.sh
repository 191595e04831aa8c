# SPDX-License-Identifier: Apache-2.0
# Sourced by tests/build_matrix.sh: the Python package, its interpreters and NumPy's.

# pip_wheel SOURCES PYTHON: a wheel into wheels/.
pip_wheel() { "$2" -m pip wheel --quiet --no-deps --wheel-dir wheels "$1"; }

# install_and_act SOURCES [PYTHON [REQUIREMENT...]]: a wheel in a fresh venv with those requirements runs the policy.
install_and_act() {
    local sources=$1 python=${2:-$PYTHON}
    shift
    [ $# -gt 0 ] && shift
    "$python" -m venv venv
    venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir wheels "$sources"
    venv/bin/python -m pip install --quiet wheels/lightwam-*.whl "$@"
    act_in_venv
}

act_in_venv() {
    reference
    venv/bin/python "$SOURCE/tests/builds/act.py" "$INSTRUCTION" >actions.txt 2>said.txt
    cat said.txt
    same_actions reference.txt actions.txt "$(sed -n 's/^\(Python [^:]*\):.*/\1; /p' said.txt)"
}

# Interpreters by name, by pyenv, or in a folder on PATH.
interpreter() {
    local version=$1 found
    for found in "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python; do
        command -v "$found" >/dev/null || continue
        "$found" -c 'import sys, venv; raise SystemExit(sys.version.split()[0].rpartition(".")[0] != sys.argv[1])' \
            "${version%t}" 2>/dev/null || continue
        command -v "$found"
        return
    done
}

# The oldest NumPy that pyproject.toml allows and this Python has a wheel of, then the newest.
declare -A OLDEST_NUMPY=([3.10]=1.24.0 [3.11]=1.24.0 [3.12]=1.26.0 [3.13]=2.1.0 [3.14]=2.3.2)
case_python() {
    local version=${CASE#python-} python
    python=$(interpreter "$version")
    [ -n "$python" ] || skip "no interpreter of Python $version"
    install_and_act "$SOURCE" "$python" "numpy==${OLDEST_NUMPY[$version]}"
    venv/bin/python -m pip install --quiet --upgrade numpy
    act_in_venv
}
for version in 3.10 3.11 3.12 3.13 3.14; do
    add_case python-$version "wheel; NumPy ${OLDEST_NUMPY[$version]} and the newest" case_python
done

# Free-threaded Python is refused while the extension is built.
case_free_threaded() {
    local python
    python=$(interpreter "${CASE#python-}")
    [ -n "$python" ] || skip "no interpreter of free-threaded Python ${CASE#python-}"
    refused "free-threaded Python" "$python" -m pip wheel --no-deps "$SOURCE"
    echo "RESULT: refused, one line"
}
for version in 3.13t 3.14t; do add_case python-$version "free-threaded" case_free_threaded; done

# A source distribution holds what a wheel needs, and a wheel of it runs.
case_sdist() {
    local archive
    "$PYTHON" -m venv tools
    tools/bin/pip install --quiet build
    tools/bin/python -m build --quiet --sdist --outdir . "$SOURCE"
    archive=$(ls lightwam-*.tar.gz)
    tar tzf "$archive" >names
    for needed in csrc/engine/ops.def kernels/task.py python/lightwam/assets/nano-libero-object-0.lwam LICENSE README.md \
        cmake/lightwam.map tests/builds/act.c tests/cpp/runtime/test_c_api.c; do
        grep -qF "/$needed" names || { echo "not in the archive: $needed"; return 1; }
    done
    ! grep -E '/(\.git|build|outputs|\.venv|__pycache__)(/|$)|\.so$' names
    install_and_act "$archive"
}
add_case sdist "python -m build --sdist; a wheel of it" case_sdist
