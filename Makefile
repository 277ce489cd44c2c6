# Two commands are all: `make demo` and `make test`. Both set up what they need on a fresh Debian 12.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
# Most tests wait for processes most of the time; a file's tests share an engine. One more than there are processors:
# the first of them has the virtual machine's tests to wait for, and when these are done nearly half of the time is idle.
# CI's order is always the same; ORDER=random, another one each time, finds tests that need those before them.
ORDER := $(if $(CI),fixed,random)
PARALLEL := -n $(shell expr $$(nproc) + 1) --dist loadfile --no-loadscope-reorder $(if $(filter fixed,$(ORDER)),-p no:randomly)
# Collects the processes that tests leave orphaned: the machine's first process may take a minute to do so.
INIT := $(PY) tools/with-init
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-vm check conformance mutations bench clean

help:
	@echo "make demo    bring up an engine, run containers, explain what is seen, leave nothing behind"
	@echo "make test    lint, types, layers, unit and privileged integration tests"
	@echo "make test-vm the tests that run in a virtual machine with another kernel (docs/reference/vm.md)"
	@echo "make bench   measure beside Docker, Podman, crun and runc where they are present"
	@echo "make conformance    orlop-runtime as OCI runtime, also under containerd, Podman and Slurm, which it installs"
	@echo "make mutations      take each defence of the boundary out and see its tests fail (ROWS=\"B4 C2\" for some)"
	@echo "make setup   what the others share: Debian packages, .venv/bin/orlop"
	@echo "make check   lint, types and layers only"

setup: .make/setup

.make/setup: tools/setup pyproject.toml scripts/orlop-runtime
	@tools/setup
	@mkdir -p .make && touch $@

demo: setup
	@demo/run

test: setup
	@$(INIT) $(PY) -m pytest -q $(PARALLEL) $(ARGS)

test-vm: setup
	@ORLOP_VM=1 $(INIT) $(PY) -m pytest -q -m "vm or boots" $(ARGS)

check: setup
	@$(PY) -m pytest -q tests/lint

conformance: setup
	@tools/setup-callers
	@CALLERS=required ORLOP_EVERY_BUNDLE=1 $(INIT) $(PY) -m pytest -q tests/conformance tests/faults/test_bad_bundles.py $(ARGS)

mutations: setup
	@$(PY) tests/boundary/mutations.py $(ROWS)

bench: setup
	@$(PY) benchmarks/$(or $(BENCH),main).py $(ARGS)

clean:
	rm -rf .venv .make .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
