# `make` lists what there is. Needs Python 3.11 or newer, and nothing else.

VENV ?= .venv
BIN := $(VENV)/bin
PEERS := airbyte_cdk dlt singer

.PHONY: help demo test test-long test-simulations test-crash test-servers docs lint types mypy pyright format bench bench-peers bench-sim bench-substreams bench-extract bench-journal bench-tables bench-mock bench-crash clean

help:  ## List these targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 18

demo: $(VENV)/.demo  ## Read a small, unfriendly shop on this machine, and watch (15 seconds)
	$(BIN)/python examples/demo $(ARGS)

test: $(VENV)/.ready  ## Run all tests, the examples and the snippets of the documentation, with short simulations (5 minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-long: test-simulations test-crash  ## Run what `make test` shortens: every simulation and every crash (40 minutes)

test-simulations: $(VENV)/.ready  ## Run the simulations with all seeds and examples (10 minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m simulation --simulations full $(ARGS)

test-crash: $(VENV)/.ready  ## Fail every operation and statement of a run, lose power 500 times, kill it 200 times per output (25 minutes)
	CRASHES=200 $(BIN)/python -m pytest tests/test_crash.py tests/test_tables.py -k 'survive or detects'

test-servers: $(VENV)/.ready  ## Run the tests against servers that pip does not install; names what is missing (1 minute)
	$(BIN)/python -m pytest -m server -rs $(ARGS)

docs: $(VENV)/.ready  ## Build the documentation in build/site; a warning fails (15 seconds)
	$(BIN)/python scripts/build_docs.py

lint: $(VENV)/.ready  ## Look for mistakes and for what is formatted otherwise
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: mypy pyright  ## Check the types of package and examples, strictly, twice

mypy: $(VENV)/.ready
	$(BIN)/mypy

pyright: $(VENV)/.ready
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.ready  ## Format everything
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## Measure the CPU of a page, and whole jobs, beside programs written by hand (20 minutes)
	$(BIN)/python benchmarks/read.py
	$(BIN)/python benchmarks/compare.py $(ARGS)
	$(BIN)/python benchmarks/transform.py

bench-peers: $(VENV)/.bench $(PEERS:%=.bench/%/.ready)  ## Measure whole jobs beside airbyte-cdk, dlt and singer-sdk (25 minutes)
	$(BIN)/python benchmarks/compare.py --peers $(ARGS)

bench-sim: $(VENV)/.ready  ## Simulate the governor against servers of each kind, and measure its cost (4 minutes)
	$(BIN)/python benchmarks/simulate.py $(ARGS)
	$(BIN)/python benchmarks/governor.py

bench-substreams: $(VENV)/.bench  ## Measure children: requests for their parents, time, a log that is read again, memory (10 minutes)
	$(BIN)/python benchmarks/substreams.py $(ARGS)

bench-crash: $(VENV)/.ready  ## Kill a run 1,000 times for each output, and hold what it wrote against the server (50 minutes)
	CRASHES=1000 $(BIN)/python -m pytest tests/test_crash.py -k survive_kill

bench-extract: $(VENV)/.bench  ## Measure the CPU of files that are written exactly once, beside scripts that promise nothing (2 minutes)
	$(BIN)/python benchmarks/compare.py --extract $(ARGS)

bench-journal: $(VENV)/.ready  ## Measure what it costs to know what has been written, and 100,000 partitions (5 minutes)
	$(BIN)/python benchmarks/journal.py $(ARGS)

bench-tables: $(VENV)/.ready  ## Measure Parquet, DuckDB and SQLite beside their libraries alone, and how long the event loop waits (8 minutes)
	$(BIN)/python benchmarks/tables.py $(ARGS)

bench-mock: $(VENV)/.ready  ## Measure how much MockApi serves; needs wrk (2 minutes)
	$(BIN)/python benchmarks/mock_api.py

clean:  ## Remove the environment, all caches, and what the demo wrote
	rm -rf $(VENV) .bench build out .mypy_cache .pytest_cache .ruff_cache .hypothesis dist

$(VENV)/.demo: pyproject.toml scripts/environment
	@./scripts/environment $(VENV) progress
	@touch $@

$(VENV)/.ready: pyproject.toml scripts/environment
	@./scripts/environment $(VENV) dev
	@touch $@

$(VENV)/.bench: $(VENV)/.ready benchmarks/requirements-hand.txt benchmarks/peers.sh
	@./benchmarks/peers.sh $(VENV) benchmarks/requirements-hand.txt
	@touch $@

.bench/%/.ready: benchmarks/requirements-%.txt benchmarks/peers.sh
	@./benchmarks/peers.sh .bench/$* $<
	@touch $@
