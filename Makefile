# Every command a person or a machine runs on this repository. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two test processes: enough to show that tests don't lean on each other, and what a small
# machine has cores for.
WORKERS ?= 2
# How long `make fuzz` and `make fuzz-NAME` go on.
HOURS ?= 1
# How many servers `make soak` kills on each engine.
KILLS ?= 500
CODE := src tests $(wildcard benchmarks)

export PYTHON
# Nothing may wait for an answer, here or in continuous integration.
export CI ?= true
export NO_MKDOCS_2_WARNING := 1

.PHONY: help demo test check enroll soak fuzz docs lock format venv system system-tests clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(if $(filter postgresql,$(DATABASE)),system-tests,system) $(STAMP) ## the whole story on real processes (ONCE=1: check and stop; DATABASE=postgresql)
	@$(BIN)/troth demo $(if $(filter-out 0,$(ONCE)),--once) $(if $(DATABASE),--database $(DATABASE))

test: system-tests check ## everything in `check`, then all tests
	@echo "tests" >&2
	@$(BIN)/python -m pytest -n $(WORKERS) $(TESTS)

check: system $(STAMP) ## format, lint, types, import contracts, documentation, house rules
	@VENV=$(VENV) scripts/check.sh $(CODE)

enroll: ## the client of devices without an agent as one file, dist/troth-enroll.pyz
	@$(or $(PYTHON),python3) scripts/build_enroll.py

bench-%: system $(STAMP) ## one benchmark, e.g. bench-startup; its last line is one JSON object
	@if [[ ! -f benchmarks/bench_$(subst -,_,$*).py ]]; then \
	  echo "there is no benchmarks/bench_$(subst -,_,$*).py" >&2; exit 2; fi
	@$(BIN)/python -m benchmarks.bench_$(subst -,_,$*) $(if $(MILLIONS),--millions $(MILLIONS))

soak: system-tests $(STAMP) ## kill servers under load, KILLS times an engine (500), DATABASE=sqlite|postgresql
	@$(BIN)/python -m tests.soak --kills $(KILLS) \
	  $(if $(filter-out both,$(DATABASE)),--database $(DATABASE)) $(if $(SEED),--seed $(SEED))

fuzz: system $(STAMP) ## every fuzz target in turn, for HOURS (1 if not given)
	@$(BIN)/python -m tests.fuzz --hours $(HOURS)

fuzz-%: system $(STAMP) ## one fuzz target for HOURS, e.g. fuzz-csr; fuzz-list lists them
	@$(BIN)/python -m tests.fuzz --hours $(HOURS) $*

format: $(STAMP) ## let ruff rewrite what it can
	@$(BIN)/ruff check --quiet --fix $(CODE); $(BIN)/ruff format --quiet $(CODE)

docs: $(STAMP) ## the documentation as a site, in site/
	@$(BIN)/mkdocs build --strict --site-dir site

lock: $(STAMP) ## rewrite the lock files from pyproject.toml (UPGRADE=1: newest versions)
	@scripts/lock.sh

venv: system $(STAMP) ## only the virtual environment, in .venv

clean: ## remove the virtual environment, caches and built files
	@rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache \
	  .hypothesis .coverage build dist site

system:
	@scripts/ensure_system.sh

system-tests:
	@scripts/ensure_system.sh tests

$(STAMP): requirements/dev.txt pyproject.toml scripts/venv.sh | system
	@VENV=$(VENV) scripts/venv.sh
	@touch $@
