# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests. Both set up .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DATA   := ../shared/data

# Tests and the demo read the shared data where it exists; the library works without.
ifneq ($(wildcard $(DATA)),)
export IMC_SSM_DATA ?= $(abspath $(DATA))
endif
export MPLBACKEND ?= Agg
# Two workers share two cores: one thread each, and no spinning while another works.
export GOMP_SPINCOUNT ?= 1000

.PHONY: all demo test bench lint clean
all: $(STAMP)

# Reinstalled only when pyproject.toml changed; the package itself is an editable install.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/imc-ssm demo --out results/demo.nc

test: lint
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	OMP_NUM_THREADS=2 NUMBA_NUM_THREADS=2 $(BIN)/python benchmarks/recurrence.py
	$(BIN)/python benchmarks/micro_batches.py
	$(BIN)/python benchmarks/pages.py

clean:
	rm -rf $(VENV) results .pytest_cache .mypy_cache .ruff_cache .hypothesis
