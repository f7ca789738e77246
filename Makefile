# Everything a person or CI runs.  Each target installs what it needs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help venv demo test check e2e bench lock crds clean

help: ## Show this help
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sort | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(STAMP) ## Install the pinned dependencies into .venv
$(STAMP): requirements/dev.txt pyproject.toml
	@test -x $(BIN)/python || $(PY) -m venv $(VENV)
	@echo "Installing pinned dependencies into $(VENV)"
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $(STAMP)

crds: venv ## Write crds/, the chart's copy, docs/api.md and manifests/base from their sources
	@$(BIN)/python -m sluice.api.crd crds charts/sluice/files/crds
	@$(BIN)/python -m sluice.api.reference docs/api.md
	@$(BIN)/python -m tests.tools.manifests

lock: ## Pin every dependency with hashes
	@$(BIN)/python -m uv pip compile pyproject.toml --all-extras --group test --group check --group demo \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --universal --python-version 3.11 \
	  --no-header -q -o requirements/dev.txt
