# Everything sets itself up: the virtual environment, and as root Debian's packages for a registry and an engine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ISOLATED := tests/parts/isolated
# Each worker is alone with its parts. There are more than processors, since much of it is waiting. An engine that is
# there already (MARGO_ENGINE) has room for one.
WORKERS ?= 4
APART := $(if $(MARGO_ENGINE),,--dist worksteal --tx '$(WORKERS)*popen//python=$(ISOLATED) $(BIN)/python')

.PHONY: help venv parts demo test lint check fuzz soak format bench registry package docs clean

help: ## Show what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

venv: $(READY) ## .venv/bin/margo-oci and .venv/bin/margo-agent

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (PYTHON=…)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: apt-get install python3-venv"; exit 1; }
	@echo "setting up $(VENV) …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

parts: ## Debian's packages for a registry and an engine, where they are missing
	@tests/parts/install

demo: venv parts ## The whole story on a real registry and a real engine, in about two minutes
	@$(ISOLATED) $(BIN)/python -m examples.demo

test: venv parts ## All tests, on a real registry and real engines (WORKERS, MARGO_ENGINES, MARGO_ENGINE: CONTRIBUTING.md)
	@$(BIN)/python -m pytest $(APART)

lint: venv ## Format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint ## The same, and the unit tests
	$(BIN)/python -m pytest -q tests/unit

format: venv ## Format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: venv ## Hostile input for every parser (FUZZ_INPUTS in total or FUZZ_SECONDS each, FUZZ_TARGETS, FUZZ_SEED)
	@$(BIN)/python -m tests.fuzz

soak: venv parts ## Kills, power cuts and many passes on Docker and Podman, for hours (SOAK_KILLS, SOAK_CUTS, SOAK_PASSES, SOAK_ENGINES)
	@$(ISOLATED) $(BIN)/python -m tests.faults

bench: venv ## Speed and memory, side by side with oras and skopeo
	@tests/parts/install
	@$(ISOLATED) $(BIN)/python -m tests.bench

registry: venv parts ## A local registry on port 5000, until Ctrl-C
	@$(BIN)/python -m tests.parts.registry

package: venv ## The agent as a Debian package in dist/ (ARCH=arm64, WITH=compose,keyless)
	@$(BIN)/python agent/packaging/build.py --arch "$(ARCH)" --with "$(WITH)" dist

docs: venv ## The documents, built into site/
	@$(BIN)/python docs/make_commands.py
	@$(BIN)/python docs/make_schemas.py
	@$(BIN)/mkdocs build --strict

clean: ## Remove what was built
	rm -rf $(VENV) site dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
