# `make` lists the targets. It requires Python 3.11 or newer.

VENV ?= .venv
BIN := $(VENV)/bin
PEERS := airbyte_cdk dlt singer
ORCHESTRATORS := airflow dagster prefect
# The tests start hundreds of processes: with this variable, each of them would compile everything that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-long test-simulations test-properties test-crash test-servers test-programs test-orchestrators docs lint types mypy pyright format bench bench-figures bench-slice bench-transport bench-peers bench-sim bench-substreams bench-extract bench-journal bench-tables bench-mock bench-imports bench-event-log bench-telemetry bench-crash soak image clean

help:  ## List these targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 20

demo: $(VENV)/.demo  ## Read a mock shop API on this machine into SQLite and show the progress (15 seconds)
	$(BIN)/python examples/demo $(ARGS)

test: $(VENV)/.ready  ## Run all tests, the examples and the snippets of the documentation, with short simulations (5 minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-long: test-simulations test-crash  ## Run what `make test` shortens: every simulation and every crash (40 minutes)

test-simulations: $(VENV)/.ready  ## Run the simulations with all seeds and examples (10 minutes)
	SIMULATIONS=full $(BIN)/python -m pytest -n 2 --dist worksteal -m simulation -k 'not survive' $(ARGS)

test-properties: $(VENV)/.ready  ## Try the properties of order, windows and keys with new random examples (2 minutes)
	SIMULATIONS=full $(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-profile=random -k property tests/test_window_coverage.py tests/test_windows.py tests/test_upserts.py $(ARGS)

test-crash: $(VENV)/.ready  ## Fail every operation and statement of a run, lose power 500 times, kill it 200 times per output (25 minutes)
	SIMULATIONS=full CRASHES=200 $(BIN)/python -m pytest tests/test_crash.py tests/test_tables.py -k 'survive or detects'

test-servers: $(VENV)/.ready  ## Run the tests against servers and a browser that pip does not install; names what is missing (2 minutes)
	$(BIN)/python -m pytest -m server -rs $(ARGS)

test-programs: $(VENV)/.ready  ## Run the command line, containers and recipes for schedulers as programs (1 minute)
	PROGRAMS=all $(BIN)/python -m pytest -n 2 --dist worksteal -m program $(ARGS)

test-orchestrators: $(ORCHESTRATORS:%=.orchestrators/%/.ready) $(VENV)/.ready  ## Run docs/orchestrators.md with the real Airflow, Dagster and Prefect (5 minutes)
	ORCHESTRATORS=.orchestrators $(BIN)/python -m pytest tests/test_orchestrators.py $(ARGS)

docs: $(VENV)/.ready  ## Build the documentation in build/site; a warning fails (15 seconds)
	$(BIN)/python scripts/build_docs.py

lint: $(VENV)/.ready  ## Check style and formatting with ruff (a few seconds)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: mypy pyright  ## Check the types of the package and the examples with mypy and pyright (1 minute)

mypy: $(VENV)/.ready
	$(BIN)/mypy

pyright: $(VENV)/.ready
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.ready  ## Format the code and apply automatic fixes (a few seconds)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## Benchmark the CPU per page, complete jobs and type casting against hand-written scripts (30 minutes)
	$(BIN)/python benchmarks/read.py
	$(BIN)/python benchmarks/compare.py $(ARGS)
	$(BIN)/python benchmarks/transform.py

bench-figures: $(VENV)/.bench  ## Benchmark the jobs that have an aim beside the script, with both event loops (20 minutes)
	$(BIN)/python benchmarks/compare.py --jobs 'numbered slices' 'numbered cpu' pages many declared cursor records faults --contenders asyncstreams 'aiohttp script' $(ARGS)
	$(BIN)/python benchmarks/compare.py --extract $(ARGS)
	$(BIN)/python benchmarks/substreams.py --parts tree $(ARGS)

bench-slice: $(VENV)/.bench  ## Print calls and CPU of a slice of one page by layer, beside the script's request (1 minute)
	$(BIN)/python benchmarks/slice_layers.py $(ARGS)

bench-transport: $(VENV)/.bench  ## Benchmark the CPU of a page through the transport alone and the client, http and https, both event loops (15 minutes)
	$(BIN)/python benchmarks/transport.py $(ARGS)
	$(BIN)/python benchmarks/read.py --loops asyncio uvloop --schemes http https $(ARGS)

bench-peers: $(VENV)/.bench $(PEERS:%=.bench/%/.ready)  ## Benchmark complete jobs against airbyte-cdk, dlt and singer-sdk (25 minutes)
	$(BIN)/python benchmarks/compare.py --peers $(ARGS)

bench-sim: $(VENV)/.ready  ## Simulate the governor against servers of each kind, and measure its cost (4 minutes)
	$(BIN)/python benchmarks/simulate.py $(ARGS)
	$(BIN)/python benchmarks/governor.py

bench-substreams: $(VENV)/.bench  ## Benchmark substreams: requests for parents, time, replay of a parent log, memory (10 minutes)
	$(BIN)/python benchmarks/substreams.py $(ARGS)

bench-crash: $(VENV)/.ready  ## Kill an extraction 1,000 times per destination and compare its output with the server (50 minutes)
	SIMULATIONS=full CRASHES=1000 $(BIN)/python -m pytest tests/test_crash.py -k survive_kill

bench-extract: $(VENV)/.bench  ## Benchmark the CPU of exactly-once files against scripts without guarantees (2 minutes)
	$(BIN)/python benchmarks/compare.py --extract $(ARGS)

bench-journal: $(VENV)/.ready  ## Benchmark the journal and states with 100,000 partitions (5 minutes)
	$(BIN)/python benchmarks/journal.py $(ARGS)

bench-tables: $(VENV)/.ready  ## Benchmark Parquet, DuckDB and SQLite against their libraries, and the event loop lag (8 minutes)
	$(BIN)/python benchmarks/tables.py $(ARGS)

bench-mock: $(VENV)/.ready  ## Benchmark the throughput of MockApi; requires wrk (2 minutes)
	$(BIN)/python benchmarks/mock_api.py

bench-imports: $(VENV)/.ready  ## Benchmark the CPU of importing asyncstreams against that of importing httpx (20 seconds)
	$(BIN)/python benchmarks/imports.py $(ARGS)

bench-event-log: $(VENV)/.ready  ## Benchmark the CPU of the event log and of the live view (2 minutes)
	$(BIN)/python benchmarks/event_log.py $(ARGS)

bench-telemetry: $(VENV)/.ready  ## Benchmark the CPU of spans and metrics of OpenTelemetry for each page (1 minute)
	$(BIN)/python benchmarks/telemetry_cost.py $(ARGS)

soak: $(VENV)/.ready  ## Send a million requests to a server with faults; memory and descriptors must not grow (5 minutes)
	$(BIN)/python benchmarks/soak.py $(ARGS)

image:  ## Build the container image asyncstreams; requires docker (3 minutes)
	docker build --tag asyncstreams --build-arg REVISION=$$(git rev-parse HEAD) \
		--build-arg VERSION=$$(sed -n 's/^__version__ = "\(.*\)"$$/\1/p' asyncstreams/_version.py) $(ARGS) .

clean:  ## Remove the environments, the caches and the output of the demo
	rm -rf $(VENV) .bench .orchestrators build out .mypy_cache .pytest_cache .ruff_cache .hypothesis dist

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

.orchestrators/%/.ready: tests/orchestrators/requirements-%.txt benchmarks/peers.sh pyproject.toml
	@./benchmarks/peers.sh .orchestrators/$* $<
	@touch $@
