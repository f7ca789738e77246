# Everything a person or CI runs.  Each target installs what it needs and says what it does.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help venv binaries demo test check e2e bench bench-serving stats-report stats-peers protocol-peers signing-peers sources-peers parity lock crds docs clean

help: ## Show this help
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sort | sed -E 's/:.*## /\t/' | expand -t 16

venv: $(STAMP) ## Install the pinned dependencies into .venv
$(STAMP): requirements/dev.txt pyproject.toml
	@$(PY) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Set PY=/path/to/python3.11.") if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || { $(PY) -m venv $(VENV) || { echo "The venv module is missing: apt-get install python3-venv"; exit 1; }; }
	@echo "== installing pinned dependencies into $(VENV)"
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $(STAMP)

binaries: venv ## Fetch or build etcd, Kubernetes, HAProxy and friends (cached; about 9 minutes from nothing)
	@$(BIN)/python -m sluice.local.binaries ensure
	@ln -sf "$$($(BIN)/python -m sluice.local.binaries path helm)" $(BIN)/helm

demo: binaries ## The main job on a real control plane: a good rollout, bad ones taken back (KEEP=1 keeps it)
	@$(BIN)/python -m demo $(if $(KEEP),--keep,)

test: binaries ## Every test, against a real API server, router and model servers
	@echo "== unit and property tests"
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/property
	@echo "== integration tests, on two embedded control planes"
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/integration

e2e: binaries ## The demo as a test: every promise of its story (about 6 minutes)
	@$(BIN)/python -m pytest tests/e2e

check: venv ## Lint, format, types, layers, dependencies, generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/deptry operator
	@$(BIN)/python -m sluice.api.crd --check crds charts/sluice/files/crds
	@$(BIN)/python -m sluice.api.reference --check docs/api.md
	@$(BIN)/python -m tests.tools.manifests --check
	@$(BIN)/python -m tests.tools.states --check
	@test ! -e operator/__init__.py || { echo "operator/__init__.py shadows the standard library; remove it"; exit 1; }

bench: binaries ## Print the table of targets with what is measured here (QUICK=1; ONLY=stats,router)
	@PYTHONPATH=operator:. $(BIN)/python -m tests.bench $(if $(QUICK),--quick,) $(if $(ONLY),--only $(ONLY),)

bench-serving: venv ## Our model server beside KServe, MLServer, BentoML, LitServe, FastAPI (QUICK=1; ONLY=kserve,sluice)
	@PYTHONPATH=operator:. $(BIN)/python -m tests.bench.serving $(if $(QUICK),--quick,) $(if $(ONLY),--only $(ONLY),) $(if $(PLOT),--plot $(PLOT),)

stats-report: venv ## Simulate what docs/statistics.md claims; fails when a claim does (QUICK=1; ONLY=errors,power)
	@PYTHONPATH=operator:. $(BIN)/python -m tests.stats_report $(if $(QUICK),--quick,) $(if $(ONLY),--only $(ONLY),)

stats-peers: venv ## Compare the statistics with gbstats, tea-tasting and savvi, each in its own environment (ONLY=savvi)
	@PYTHONPATH=operator:. $(BIN)/python -m tests.stats_peers $(if $(ONLY),--only $(ONLY),)

protocol-peers: venv ## Ask a model server with tritonclient and the KServe client, each in its own environment (ONLY=kserve)
	@PYTHONPATH=operator:. $(BIN)/python -m tests.protocol_peers $(if $(ONLY),--only $(ONLY),)

signing-peers: venv ## Sign and verify packages with OpenSSF's model-signing, in its own environment, and with ours
	@PYTHONPATH=operator:. $(BIN)/python -m tests.signing_peers

sources-peers: venv ## Try the sources with an MLflow server, Azurite and oras, each in its own environment (ONLY=mlflow)
	@PYTHONPATH=operator:. $(BIN)/python -m tests.sources_peers $(if $(ONLY),--only $(ONLY),)

parity: venv ## Compare 96 kinds of packaged model with scikit-learn, 100,000 rows each (QUICK=1; ONLY=forest,SGD)
	@PYTHONPATH=operator:. $(BIN)/python -m tests.parity $(if $(QUICK),--quick,) $(if $(ONLY),--only $(ONLY),)

crds: venv ## Write crds/, the chart's copy, docs/api.md, the diagram and manifests/base from their sources
	@$(BIN)/python -m sluice.api.crd crds charts/sluice/files/crds
	@$(BIN)/python -m sluice.api.reference docs/api.md
	@$(BIN)/python -m tests.tools.manifests
	@$(BIN)/python -m tests.tools.states

lock: venv ## Pin every dependency with hashes, those of the compared servers too
	@$(BIN)/python -m uv pip compile pyproject.toml --all-extras --group test --group check --group demo --group build \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --universal --python-version 3.11 \
	  --no-header -q -o requirements/dev.txt
	@for peer in tests/bench/serving/peers/*/; do $(BIN)/python -m uv pip compile $$peer/requirements.in \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 --no-annotate \
	  --no-header -q -o $$peer/requirements.txt || exit 1; done
	@for peer in tests/*_peers/*.in; do $(BIN)/python -m uv pip compile $$peer \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --universal --python-version 3.11 \
	  --no-header -q -o $${peer%.in}.txt || exit 1; done
	@npm --prefix tests/sources_peers/azurite install --package-lock-only --ignore-scripts --no-audit --no-fund \
	  --omit-lockfile-registry-resolved --loglevel=error

clean: ## Remove the virtual environment and what was built
	@rm -rf $(VENV) build
