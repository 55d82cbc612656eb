# Each target sets up what it needs: a virtual environment with the pinned dependencies.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SUPERSET_VENV ?= .venv-superset
SUPERSET_STAMP := $(SUPERSET_VENV)/.installed
# Tutor needs an older Click than dbt's neighbours, so it gets an environment of its own.
TUTOR_VENV ?= .venv-tutor
TUTOR_STAMP := $(TUTOR_VENV)/.installed

# It audits the pinned dependencies and is none of them.
AUDIT_VENV ?= .venv-audit
AUDIT_STAMP := $(AUDIT_VENV)/.installed

.PHONY: demo test test-superset lint types audit format benchmarks clean

demo: $(STAMP)
	$(BIN)/aspects-pii demo

test: $(STAMP) $(TUTOR_STAMP)
	$(BIN)/python tests/each_file.py $(ARGS)

test-superset: $(STAMP) $(SUPERSET_STAMP)
	$(BIN)/python -m pytest -q tests/superset

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint dbt_project/models dbt_project/tests

types: $(STAMP)
	$(BIN)/mypy

# Known vulnerabilities of what is pinned; asks PyPI's database.
audit: $(AUDIT_STAMP)
	$(AUDIT_VENV)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

$(AUDIT_STAMP): Makefile
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	touch $@

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmarks: $(STAMP)
	for benchmark in benchmarks/*.py; do $(BIN)/python $$benchmark; done

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Where Tutor cannot be installed its tests are skipped, saying so; with REQUIRE_SERVICES=1 they fail.
$(TUTOR_STAMP): pyproject.toml tests/services/doors/tutor/constraints.txt
	$(PYTHON) -m venv $(TUTOR_VENV)
	$(TUTOR_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint tests/services/doors/tutor/constraints.txt --editable '.[tutor]' \
		&& touch $@ || echo "Tutor could not be installed." >&2

# A real Apache Superset, which cannot live beside our own dependencies.
$(SUPERSET_STAMP): tests/superset/requirements.txt
	$(PYTHON) -m venv $(SUPERSET_VENV)
	$(SUPERSET_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

clean:
	rm -rf $(VENV) $(SUPERSET_VENV) $(TUTOR_VENV) $(AUDIT_VENV) build dist .pytest_cache .mypy_cache .ruff_cache dbt_project/target dbt_project/logs
