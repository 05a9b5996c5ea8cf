# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests. Both set up .venv first.
# `make test-portable` repeats the tests of float kernels as another processor would run them.
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

.PHONY: all demo test test-portable bench lint constants clean
all: $(STAMP)

# Reinstalled only when a version may have changed; the package itself is an editable install. The constraints are
# the set that is tested: without them pip takes the newest of everything.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/imc-ssm demo --out results/demo.nc

test: lint
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# Float kernels round differently on every processor. The rooms that compute with them once more as an older one
# does: torch with no vector instructions beyond the baseline, its libraries and Numba with AVX2 and no AVX-512. (A
# name alone leaves Numba the features of this processor. Its cache tells processors apart.)
ifeq ($(shell uname -m),x86_64)
OLDER := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma
else
OLDER := ATEN_CPU_CAPABILITY=default
endif
# Left out: what computes nothing in these kernels, starts processes, or runs through Triton's interpreter.
FLOATS := -k "not triton" $(addprefix --ignore=tests/,fixedpoint datasets study cli/test_cli_process.py \
	cli/test_cli_refusals.py test_files.py test_modelfile.py test_notebook.py test_packaging.py test_plots.py \
	test_plots_poles.py test_quantization_page.py test_readme.py test_results.py)

test-portable: $(STAMP)
	$(OLDER) OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(FLOATS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	OMP_NUM_THREADS=2 NUMBA_NUM_THREADS=2 $(BIN)/python benchmarks/recurrence.py
	OMP_NUM_THREADS=2 NUMBA_NUM_THREADS=2 $(BIN)/python benchmarks/tiles.py --chips 4 --times 2 --images 1000
	$(BIN)/python benchmarks/micro_batches.py
	$(BIN)/python benchmarks/pages.py

# Writes the page of constants from the tables in devices.
constants: $(STAMP)
	$(BIN)/python -c "from imc_ssm.costs.constants_page import constants_page; print(constants_page(), end='')" > docs/constants.md

clean:
	rm -rf $(VENV) results .pytest_cache .mypy_cache .ruff_cache .hypothesis
