# The whole project in four words: run, test, lint, clean.
#
# Everything lives in .venv; small stamp files inside it remember what is installed, so that a second call starts at
# once. The exact versions stand in constraints.txt. torch goes first and alone: it is by far the largest package, and
# what follows is resolved around the build that is already there.

# The first Python of the supported versions that is on the PATH; `make run PYTHON=/path/to/python` chooses another.
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python3.10 python
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && break; done)

VENV := .venv
BIN := $(VENV)/bin
# --no-compile: byte-compiling ten thousand files of torch takes longer than compiling the few that are ever imported.
PIP := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check --no-compile -c constraints.txt
PYTEST_WORKERS ?= 2

# What is compiled: installed anew when it has changed.
NATIVE := $(wildcard src/malmoi/native/engine/* src/malmoi/model/*.cpp)

.PHONY: run test test-ray lint clean help
.DEFAULT_GOAL := help

help:
	@echo "make run    install and train a first GPT on this machine (a few minutes)"
	@echo "make test   install what the tests need and run them (ALL=1: the slow ones too)"
	@echo "make test-ray  install Ray (80 MB) and run the tests that need it"
	@echo "make lint   formatting, lint rules and types"
	@echo "make sanitise  the native engine's tests under address and undefined-behaviour sanitizers"
	@echo "make clean  remove .venv, caches and runs/quickstart"

run: $(VENV)/.installed
	@$(BIN)/malmoi quickstart

test: $(VENV)/.installed-test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder \
		--durations=15 $(if $(ALL),,-m "not slow") $(ARGS)

# Apart from the others: Ray starts many processes, and gives up where others keep them waiting.
test-ray: $(VENV)/.installed-ray
	@OMP_NUM_THREADS=1 MALMOI_TEST_RAY=1 $(BIN)/python -m pytest tests/data/test_cluster_shards.py --durations=5 $(ARGS)

lint: $(VENV)/.installed-dev
	@status=0; \
	$(BIN)/ruff format --check src tests benchmarks docs || status=1; \
	$(BIN)/ruff check src tests benchmarks docs || status=1; \
	$(BIN)/pyright || status=1; \
	exit $$status

# The engine once more, compiled so that reading one byte too far, or an overflow, ends the process.
SANITISE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1
SANITISED := build/sanitised/malmoi/native/_engine.so
sanitise: $(VENV)/.installed-test
	@command -v g++ >/dev/null || { echo "make sanitise needs g++"; exit 1; }
	@MALMOI_NATIVE_REQUIRED=1 MALMOI_NATIVE_FLAGS="$(SANITISE)" $(BIN)/python setup.py --quiet build_ext \
		--build-lib build/sanitised --build-temp build/sanitised-objects
	@LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 MALMOI_NATIVE_LIBRARY=$(SANITISED) MALMOI_FUZZ=4000 \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/native/test_interface.py tests/native/test_core.py \
		tests/native/test_packed_folder.py

clean:
	rm -f src/malmoi/native/_engine.* src/malmoi/model/_fused.*
	rm -rf $(VENV) build dist src/malmoi.egg-info .pytest_cache .ruff_cache .hypothesis runs/quickstart
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@test -n "$(PYTHON)" || { \
		echo "Malmoi needs Python 3.10 to 3.14; found none on the PATH. Install one, or: make run PYTHON=/path/to/python" >&2; \
		exit 1; }
	@echo "Making $(VENV) with $(PYTHON) ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.made constraints.txt
	@echo "Installing torch ..."
	@$(PIP) torch setuptools
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml setup.py $(NATIVE)
	@echo "Installing malmoi ..."
	@$(PIP) --no-build-isolation --editable ".[plots,data,images,serve]"
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing what the tests need ..."
	@$(PIP) --no-build-isolation --editable ".[test]"
	@touch $@

$(VENV)/.installed-ray: $(VENV)/.installed-test
	@echo "Installing Ray ..."
	@$(PIP) --no-build-isolation --editable ".[test,ray]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	@echo "Installing the linters ..."
	@$(PIP) --no-build-isolation --editable ".[dev]"
	@touch $@
