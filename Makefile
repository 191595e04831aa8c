# Two commands a newcomer needs: `make demo` and `make test`. Both do all their set-up (system packages, .venv, build).
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := $(shell find python kernels csrc cmake CMakeLists.txt pyproject.toml constraints.txt -type f -not -name '*.so' -not -path '*/__pycache__/*' 2>/dev/null)

.PHONY: help demo test test-cpp test-python lint bench bench-full bench-peers gpu-kernels clean

help:
	@echo "make demo        build, install and run the bundled policy in LIBERO (outputs/demo/)"
	@echo "make test        all tests, C++ and Python"
	@echo "make lint        formatters, linters and the type checker"
	@echo "make bench       latency figures (pytest-benchmark)"
	@echo "make bench-full  with the full-size model as well (minutes, 16 GB of memory)"
	@echo "make bench-peers the full-size model beside PyTorch, ONNX Runtime and OpenVINO (an hour, 24 GB, 30 GB of disk)"
	@echo "make gpu-kernels  compile every GPU kernel for all targets, renew their record and docs/reports/gpu-kernels.md (half an hour)"
	@echo "make clean       remove everything the other targets made"

demo: $(VENV)/.demo-installed
	$(BIN)/lightwam demo

test: test-cpp test-python

test-cpp: $(VENV)/.test-installed
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset cpu -G Ninja --log-level=WARNING
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset cpu -j 2
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --preset cpu

test-python: $(VENV)/.test-installed
	$(BIN)/python -m pytest tests/python

lint: $(VENV)/.test-installed
	ln -sfn ../../kernels python/lightwam/kernels
	$(BIN)/ruff check python kernels tests benchmarks
	$(BIN)/ruff format --check python kernels tests benchmarks
	$(BIN)/mypy
	find csrc tests/cpp tests/standin benchmarks/cpp -name '*.[ch]pp' -o -name '*.h' -o -name '*.c' | xargs $(BIN)/clang-format --dry-run --Werror

bench: $(VENV)/.test-installed
	$(BIN)/python -m pytest benchmarks --benchmark-columns=min,median,stddev,rounds

bench-full: $(VENV)/.test-installed
	$(BIN)/python -m pytest benchmarks --full-size --benchmark-columns=min,median,stddev,rounds

bench-peers: $(VENV)/.peers-installed
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset cpu -G Ninja --log-level=WARNING
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset cpu -j 2 --target bench_ops
	$(BIN)/python benchmarks/report.py --size nano --picture docs/images/peers-nano.png
	$(BIN)/python benchmarks/report.py --size libero --picture docs/images/peers-libero.png

gpu-kernels: $(VENV)/.test-installed
	ln -sfn ../../kernels python/lightwam/kernels
	PYTHONPATH=python $(BIN)/python benchmarks/gpu_kernels.py

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

$(VENV)/.test-installed: $(VENV)/.system-packages $(SOURCES)
	@echo "installing lightwam with its development tools into $(VENV) (a few minutes the first time)"
	$(PIP) ".[train,libero,dev]"
	touch $@

$(VENV)/.peers-installed: $(VENV)/.test-installed
	$(PIP) ".[peers]"
	touch $@
