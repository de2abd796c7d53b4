# Two commands for a fresh machine with Python 3.11 or newer: `make demo` and `make test`. `make` alone lists the rest.

# The first Python that is new enough and can create an environment; `make PYTHON=python3.12 test` chooses another.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
    $(p) -c 'import ensurepip, sys, venv; print("$(p)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)))
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# For `make demo`: the folder to read (by default the standard library of the running Python).
DIR ?=
# For the benchmark, for example: make bench BENCH_ARGS="--only drain,limit --server valkey"
BENCH_ARGS ?= --quick
# For the tests, for example: make test PYTEST_ARGS="-k lease -x"
PYTEST_ARGS ?=
# How many processes run the tests; each has servers of its own.
TEST_PROCESSES ?= 2
# Pyright comes whole from the package index; this keeps it from asking for a newer one at each run.
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1

.PHONY: help venv demo bench test test-all check deploy-tools lint types format clean

help:  ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

venv: $(VENV)/.dev  ## Create the environment with everything for development

demo: $(VENV)/.runtime  ## Run the demonstration: one job per file below DIR, two worker processes, an embedded server
	$(BIN)/bananas demo $(if $(DIR),"$(DIR)")

bench: $(VENV)/.bench  ## Measure it: a quick look by default; BENCH_ARGS="--report docs" for the whole report
	$(BIN)/bananas bench $(BENCH_ARGS)

test: $(VENV)/.dev  ## Run the tests but the slow ones, on Valkey, and on redis-server where it is installed
	$(BIN)/python -m pytest -q -n $(TEST_PROCESSES) -m "not slow" $(PYTEST_ARGS)

test-all: $(VENV)/.dev  ## Run all tests, the slow ones too, on both servers (redis-server must be on the PATH)
	TEST_SERVERS=valkey,redis $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) $(PYTEST_ARGS)

check: lint types test  ## Lint, types and tests

deploy-tools: $(VENV)/.dev  ## Bring helm and promtool, with which the tests judge deploy/ (Linux; without them those tests skip)
	$(BIN)/python tests/deploy/bring_tools.py $(BIN)

lint: $(VENV)/.dev  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## Check types with mypy and pyright
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev  ## Repair what `make lint` finds, where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the environment, caches and builds (not the data in .bananas)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What runs: enough for the demonstration, installed in seconds.
$(VENV)/.runtime: pyproject.toml
	$(if $(strip $(PYTHON)),,$(error No Python 3.11 or newer with the venv module was found. Install one, or name it: make PYTHON=/path/to/python3))
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[server,uvloop]'
	@touch $@

# What the report of a benchmark needs on top of it.
$(VENV)/.bench: $(VENV)/.runtime
	$(PIP) --editable '.[server,uvloop,bench]'
	@touch $@

# What tests and checks need on top of it.
$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) --editable '.[all,dev]'
	@touch $@
