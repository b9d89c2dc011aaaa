# Each verb sets up what it needs first; a second set-up costs nothing.
.DEFAULT_GOAL := help
.PHONY: setup run images test test-all test-cuda check fix proto proto-clients dashboard bench bench-cuda soak clean help
SHELL := bash

VENV ?= .venv
PY := $(VENV)/bin/python
ARGS ?=
# Which torch: cuda (the package index's, the default), cpu, or none, with which `make run` has no loader.
export VENV PYTHON TORCH
# Without byte code every start compiles torch again.
unexport PYTHONDONTWRITEBYTECODE

setup:      ## make .venv with the pinned requirements (PYTHON=… chooses the interpreter, TORCH=cpu a smaller torch)
	@scripts/setup.sh dev

run:        ## start all four services on loopback; Ctrl-C drains them (ARGS="--port 60051 --no-dashboard"; TORCH=none: no loader)
	@scripts/setup.sh run
	@exec $(VENV)/bin/modelkeep up $(if $(filter none,$(TORCH)),--no-loader) $(ARGS)

test: setup ## the tests, in minutes, three files at a time (ARGS="-k lease", ARGS="-n 0" for one)
	@$(PY) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not long and not interop and not cuda" $(ARGS)

test-all: setup ## everything: the long tests, and those that need Go, Node, tinyproxy or cargo
	@scripts/tools.sh tests
	@PATH="$(CURDIR)/.cache/bin:$$PATH" $(PY) -m pytest -q -m "not cuda" $(ARGS)

check: setup ## lint, format, types, .proto, generated code, import rules, layout, parity, text, the built dashboard (ARGS="types")
	@scripts/check.sh $(ARGS)

fix: setup  ## mend what can be mended: lint, format of Python and .proto
	@$(VENV)/bin/ruff check --quiet --fix . || true
	@$(VENV)/bin/ruff format --quiet .
	@$(VENV)/bin/buf format --write proto
	@scripts/check.sh lint format proto-format

proto: setup ## generate the Python stubs from proto/
	@$(PY) scripts/proto.py

proto-clients: setup ## generate the stubs of the other languages, and deploy/openapi.yaml, from proto/
	@scripts/tools.sh protoc-gen-go protoc-gen-go-grpc protoc-gen-openapi
	@$(PY) scripts/proto_clients.py $(ARGS)
	@$(PY) scripts/openapi.py

dashboard:  ## build clients/dashboard/dist from its sources (needs Node)
	@scripts/dashboard.sh

images:     ## build the images of deploy/docker and start them as Compose does (root, Debian 12; ARGS="record"; TORCH=cpu)
	@TORCH=none scripts/setup.sh run
	@scripts/images.sh $(ARGS)

bench: setup ## measure what docs/benchmarks.md tells
	@scripts/tools.sh ghz nginx aria2c curl
	@PATH="$(CURDIR)/.cache/bin:$$PATH" $(PY) tests/bench/run.py $(ARGS)

test-cuda: setup ## the tests that need a GPU; without one they say "skipped: no CUDA"
	@$(PY) -m pytest -q -m cuda $$(grep -rlE 'mark\.cuda' tests --include='test_*.py') $(ARGS)

bench-cuda: setup ## measure what a GPU is needed for, or say "skipped: no CUDA"
	@$(PY) tests/bench/run.py cuda $(ARGS)

soak: setup ## kill the downloads a thousand times, and count (ARGS="--kills 100"; ARGS=installs: three hundred installs)
	@PYTHONPATH=tests $(PY) -m support.soak $(ARGS)

clean:      ## remove what was made: environment, caches, tools; never data
	@rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	@find services clients tests scripts -name __pycache__ -prune -exec rm -rf {} +

help:       ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
