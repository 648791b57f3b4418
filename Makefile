# The commands of this project. `make quickstart` and `make test` work on a bare machine with
# Python 3.11 to 3.13 (PYTHON=python3.12 chooses one); `make check` is the whole gate.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TEST_JOBS ?= 2

.PHONY: quickstart test test-full check format lint types layers docs clean constraints \
	simulation bench bench-2b bench-switches bench-memory profile bench-page examine judge-bench

# --- installed once, and again when what is to be installed changes
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(0 if ok else "gemma-lora needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python cannot make virtual environments here; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

# --- the whole pipeline on the example, with the shipped model and the offline judge
quickstart: $(VENV)/installed
	$(BIN)/gemma-lora run examples/customer_service.csv --config configs/quickstart.yaml

# --- checks
test: $(VENV)/installed-dev
	$(BIN)/pytest -n $(TEST_JOBS) --dist worksteal -m 'not full' --ignore tests/test_docs.py --ignore tests/test_layers.py

test-full: $(VENV)/installed-dev
	$(BIN)/pytest -n $(TEST_JOBS) --dist worksteal --timeout 3600

check: format lint types layers test docs

format: $(VENV)/installed-dev
	$(BIN)/ruff format --check .

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/basedpyright

layers: $(VENV)/installed-dev
	$(BIN)/pytest tests/test_layers.py

docs: $(VENV)/installed-dev
	$(BIN)/pytest -n $(TEST_JOBS) --dist worksteal tests/test_docs.py

# --- does the verdict keep its promises? writes docs/statistics.md; SIMULATION=--quick only prints
SIMULATION ?= --jobs 2

simulation: $(VENV)/installed
	$(BIN)/python tools/simulate_verdict.py $(SIMULATION)

# --- speed and memory, on a machine that does nothing else (docs/benchmarks.md); BENCH="--rounds 5"
BENCH ?=
RUN_BENCH := PYTHONPATH=tools $(BIN)/python -m bench

bench: $(VENV)/installed-bench
	$(RUN_BENCH) speed $(BENCH)

bench-2b: $(VENV)/installed-bench
	$(RUN_BENCH) 2b $(BENCH)

bench-switches: $(VENV)/installed-bench
	$(RUN_BENCH) switches $(BENCH)

bench-memory: $(VENV)/installed
	PYTHONPATH=tools $(BIN)/python -m bench.planned $(BENCH)

profile: $(VENV)/installed-bench
	$(RUN_BENCH) profile $(BENCH)

bench-page: $(VENV)/installed
	$(RUN_BENCH) page

# --- how far judges agree with people, and the attack suite (docs/agreement.md); DATA holds the published files
DATA ?= ../shared/data/judge
EXAMINE := $(BIN)/python tools/examine_judge.py

examine: $(VENV)/installed
	$(EXAMINE) pandalm --data $(DATA)
	$(EXAMINE) evouna --data $(DATA)
	$(EXAMINE) attacks

# --- judging against a server of two seconds' latency on this machine (docs/judge-benchmark.md)
judge-bench: $(VENV)/installed
	$(BIN)/python tools/judge_bench.py $(BENCH)

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .ruff_cache

# --- maintenance: try the newest versions, test, and pin what was tested
constraints:
	rm -rf build/pin && $(PYTHON) -m venv build/pin
	build/pin/bin/python -m pip install --quiet --upgrade 'torch==2.13.0' '.[bench,dev]'
	{ sed -n '/^#/p' constraints.txt; build/pin/bin/python -m pip freeze --exclude gemma-lora --exclude pip --exclude setuptools | sed 's/+cpu$$//' | tr 'A-Z_' 'a-z-'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt
