# Needs Python 3.11 or newer, make and a package registry; everything else is installed into $(VENV).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# `make quickstart` runs these three, in this order.
QUICKSTART_FETCH := python -m infra.quickstart.fetch
QUICKSTART_PACK  := python -m infra.quickstart.pack build/quickstart/shards
QUICKSTART_RUN   := curate run pipelines/quickstart.yaml --ok-if-quarantined

SOURCES := curate tests infra benchmarks

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test test-slow test-gpu lint format types schemas constraints clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Reruns only when the dependencies change; the stamp is written last, so a broken installation starts again.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no python3.11 or python3 found; install Python 3.11 or set PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"make: $(PYTHON) is Python {v[0]}.{v[1]}; curate needs 3.11 or newer (set PYTHON=)")'
	@echo "Setting up $(VENV) (several GB on Linux because of CUDA; minutes the first time, once only)"
	$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

venv: $(READY) ## Set up the environment (every other target does so when it has to)

quickstart: $(READY) ## Curate a real image collection, from download to report
	PATH="$(CURDIR)/$(BIN):$$PATH" $(QUICKSTART_FETCH)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(QUICKSTART_PACK)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(QUICKSTART_RUN)

test: $(READY) ## Run the tests that need no GPU and no patience, and name the ones left out
	PYTHONPATH=.ci $(BIN)/python -m pytest -p left_out -n 2 --dist loadgroup $(ARGS)

test-slow: $(READY) ## Run the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not gpu" $(ARGS)

test-gpu: $(READY) ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(ARGS)

lint: $(READY) types ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

format: $(READY) ## Format the code and sort the imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schemas: $(READY) ## Regenerate schemas/ from the pydantic models
	$(BIN)/python -m curate.pipeline.published schemas

constraints: $(READY) ## Pin the newest versions of all dependencies in constraints.txt
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev --extra s3 --extra gcs --extra language \
	  --quiet --no-annotate --no-header --no-emit-index-url --no-emit-find-links > constraints.new
	$(BIN)/uv pip freeze --python $(BIN)/python | grep '^uv==' >> constraints.new
	LC_ALL=C sort -o constraints.txt constraints.new
	rm constraints.new

clean: ## Remove the environment, caches, quickstart data and runs
	rm -rf $(VENV) build dist runs *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
