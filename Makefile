# `make help` lists the targets. Every target does its own set-up.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# The folder of the published data sets, for the benchmarks: celeba/, 300W_LP/, AFLW2000/, bfm_3ddfa/
DATA ?= $(if $(JOINTFACE_TEST_DATA),$(JOINTFACE_TEST_DATA),../shared/data)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help train test test-all lint format bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

train: $(INSTALLED)  ## the embedded default: joint training on synthetic faces, from nothing; ARGS=overrides
	$(BIN)/python -m jointface.train $(ARGS)

test: $(INSTALLED) lint  ## lint, types and the default tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(INSTALLED) lint  ## also the tests that train for minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ''

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## ratios against simple baselines, measured side by side; DATA=folder of the data sets
	$(BIN)/python -m bench.position_map '$(DATA)'
	$(BIN)/python -m bench.loader '$(DATA)'
	$(BIN)/python -m bench.packed '$(DATA)'
	$(BIN)/python -m bench.in_memory '$(DATA)'
	$(BIN)/python -m bench.start_up
	$(BIN)/python -m bench.memory
	$(BIN)/python -m bench.rasteriser '$(DATA)'
	$(BIN)/python -m bench.synthesis
	$(BIN)/python -m bench.engine trainer=cpu
	$(BIN)/python -m bench.gpu

clean:  ## remove the environment and caches; runs/ stays
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
