# make demo    a dictionary of the bundled model: trained, measured, and shown as a page
# make test    the whole default suite          make check   what to run before a commit
# make bench   speed beside other libraries     make docs    links and examples of the documentation
# make ui      the web interface, built where its sources changed
# make interop what we write, read by SAELens, sparsify and others in environments of their own: 8 GB, minutes to build
# make bench-all   every other benchmark
# make reliability    runs are killed, and worse, and must go on exactly: some minutes
# make bench-worlds   every method on worlds whose truth is known: at most 20 minutes on two quiet cores

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
SPEED = $(patsubst %,benchmarks/bench_%.py,peers growth harvest analyze)

.DEFAULT_GOAL := help
.PHONY: help demo test check lint bench bench-all bench-worlds reliability docs interop ui types

help:
	@sed -n '/^$$/q;s/^# //p' Makefile

demo: $(INSTALLED) ui
	@$(BIN)/monoscope demo --out runs/demo --force

test: $(INSTALLED) ui
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: $(INSTALLED)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python ui/build.py check

ui: $(INSTALLED)
	@test -n "$(MONOSCOPE_UI)" || $(BIN)/python ui/build.py

# The interface's types, from the server's OpenAPI document.
types: $(INSTALLED)
	@$(BIN)/python -m monoscope.server.openapi > ui/openapi.json
	@$(BIN)/python ui/build.py npm run --silent types

# Checks of types and shapes on every call are left to `make test`: they take longer than the tests.
check: lint ui
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow" --jaxtyping-packages=

interop: $(INSTALLED)
	@$(BIN)/python tests/interop/environments.py interop
	@$(BIN)/python -m pytest -q --interop tests/interop tests/unit/formats/test_formats_golden.py \
		tests/unit/formats/test_formats_llamascopium.py tests/unit/formats/test_formats_circuit_tracer.py

# Other libraries in environments of their own (8 GB), then every part whose sources have changed: an hour, in any pieces.
bench: $(INSTALLED)
	@$(BIN)/python tests/interop/environments.py bench
	@for script in $(SPEED); do $(BIN)/python "$$script" || exit 1; done
	@$(BIN)/python benchmarks/performance_page.py

bench-all: $(INSTALLED)
	@for script in $(filter-out $(SPEED),$(wildcard benchmarks/bench_*.py)); do \
		echo "$$script"; $(BIN)/python "$$script" || exit 1; done

bench-worlds: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_worlds.py

reliability: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reliability.py

docs: $(INSTALLED)
	@$(BIN)/python -m pytest -q tests/unit/test_docs.py

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"monoscope needs Python 3.11 or newer; \
	$(PYTHON) is {v.major}.{v.minor}. Name another one: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,datasets]'
	@touch $@
