# Two commands a newcomer needs: `make demo` and `make test`. Both do all their set-up (system packages, .venv, build).
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles the modules that are imported, when they are; compiling all of them here takes two minutes of a core.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# Tests run in this many processes of one thread each.
JOBS ?= 2
# Extension, C++ tests and benchmarks are one build, which the installation makes: scikit-build-core reads these variables.
BUILD := build/test
BUILD_SETTINGS := SKBUILD_BUILD_DIR=$(BUILD) \
	SKBUILD_CMAKE_DEFINE="LIGHTWAM_BUILD_TESTS=ON;LIGHTWAM_BUILD_BENCHMARKS=ON;LIGHTWAM_WARNINGS_AS_ERRORS=ON"
NATIVE := $(shell find csrc tests/cpp tests/standin benchmarks/cpp cmake CMakeLists.txt pyproject.toml constraints.txt -type f)
SOURCES := $(NATIVE) $(shell find python kernels -type f -not -name '*.so' -not -path '*/__pycache__/*')

.PHONY: help demo develop test test-cpp test-python test-builds test-builds-all lint bench bench-full bench-peers gpu-kernels clean

help:
	@echo "make demo        build, install and run the bundled policy in LIBERO (outputs/demo/)"
	@echo "make develop     editable install with all development tools, and the C++ tests, into .venv"
	@echo "make test        all tests, C++ and Python"
	@echo "make test-builds-all  other compilers, Pythons and projects: all of tests/build_matrix.sh (an hour)"
	@echo "make lint        formatters, linters, the type checker and the layers of the package"
	@echo "make bench       latency figures (pytest-benchmark)"
	@echo "make bench-full  with the full-size model as well (minutes, 16 GB of memory)"
	@echo "make bench-peers the full-size model beside PyTorch, ONNX Runtime and OpenVINO (an hour, 24 GB, 30 GB of disk)"
	@echo "make gpu-kernels  compile every GPU kernel for all targets, renew their record and docs/reports/gpu-kernels.md (half an hour)"
	@echo "make clean       remove everything the other targets made"

demo: $(firstword $(wildcard $(VENV)/.test-installed) $(VENV)/.demo-installed)
	$(BIN)/lightwam demo

develop: $(VENV)/.test-installed

# What uses one core runs side by side, and each one's output comes in one piece; all of it runs, also after a failure.
# WITH=lint does the linters beside it, as CI does.
test: $(VENV)/.test-installed
	$(MAKE) --keep-going --jobs=2 --output-sync=target test-builds $(WITH); beside=$$?; \
		$(MAKE) --keep-going test-cpp test-python && exit $$beside

test-cpp: $(VENV)/.test-installed
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

test-python: $(VENV)/.test-installed
	$(BIN)/python -m pytest tests/python -n $(JOBS) --dist worksteal

test-builds: $(VENV)/.test-installed
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHON="$(CURDIR)/$(BIN)/python" tests/build_matrix.sh quick

test-builds-all: $(VENV)/.test-installed
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHON="$(CURDIR)/$(BIN)/python" tests/build_matrix.sh

lint: $(VENV)/.test-installed
	ln -sfn ../../kernels python/lightwam/kernels
	$(BIN)/ruff check python kernels tests benchmarks
	$(BIN)/ruff format --check python kernels tests benchmarks
	$(BIN)/mypy
	PYTHONPATH=python $(BIN)/lint-imports --no-cache
	find csrc tests/cpp tests/builds tests/standin benchmarks/cpp -name '*.[ch]pp' -o -name '*.h' -o -name '*.c' | xargs $(BIN)/clang-format --dry-run --Werror

bench: $(VENV)/.test-installed
	$(BIN)/python -m pytest benchmarks --benchmark-columns=min,median,stddev,rounds

bench-full: $(VENV)/.test-installed
	$(BIN)/python -m pytest benchmarks --full-size --benchmark-columns=min,median,stddev,rounds

bench-peers: $(VENV)/.peers-installed
	$(BIN)/python benchmarks/report.py --size nano --picture docs/images/peers-nano.png
	$(BIN)/python benchmarks/report.py --size libero --picture docs/images/peers-libero.png

gpu-kernels: $(VENV)/.test-installed
	$(BIN)/python benchmarks/gpu_kernels.py

clean:
	rm -rf $(VENV) build outputs

$(VENV)/.system-packages: cmake/system-packages.sh
	bash cmake/system-packages.sh
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo-installed: $(VENV)/.system-packages $(SOURCES)
	@echo "installing lightwam and the simulator into $(VENV) (a few minutes the first time)"
	$(PIP) ".[libero]"
	touch $@

$(VENV)/.test-installed: $(VENV)/.system-packages $(NATIVE)
	@echo "installing lightwam (editable) with its development tools into $(VENV) (a few minutes the first time)"
	bash cmake/system-packages.sh --tests
	$(PIP) cmake ninja pybind11 scikit-build-core
	$(BIN)/python cmake/requirements.py train libero dev > $(VENV)/requirements.txt
	$(PIP) -r $(VENV)/requirements.txt & libraries=$$!; \
		$(BUILD_SETTINGS) $(PIP) --no-build-isolation --no-deps -e .; built=$$?; \
		wait $$libraries && exit $$built
	touch $@

$(VENV)/.peers-installed: $(VENV)/.test-installed
	$(BUILD_SETTINGS) $(PIP) --no-build-isolation -e ".[peers]"
	touch $@
