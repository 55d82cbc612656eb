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

# An older ClickHouse each, as an older chDB embeds it. Aspects 6 pins 25.8; 24.8 is too old, which `init` says.
ENGINE_25.8 := chdb==3.7.2
ENGINE_24.8 := chdb==3.1.2
# What copies, erases, builds and proves.
ENGINE_SYNC_TESTS := $(addprefix copying/test_sync.py::, \
	test_the_first_copy_brings_everything_and_the_second_writes_nothing \
	test_columns_that_are_no_longer_kept_are_emptied_in_files_too \
	test_a_user_who_left_the_lms_is_gone_in_files_too test_roles_that_moved_to_openedx_authz_stay \
	test_the_retired_are_never_written)
ENGINE_TESTS := $(addprefix tests/integration/, \
	$(ENGINE_SYNC_TESTS) \
	clickhouse/test_client.py clickhouse/test_migrations.py clickhouse/test_times_as_text.py datasets/test_build.py \
	erasure/test_actions.py erasure/test_model.py erasure/test_purge.py \
	retirement/test_retire.py)

# It audits the pinned dependencies and is none of them.
AUDIT_VENV ?= .venv-audit
AUDIT_STAMP := $(AUDIT_VENV)/.installed

.PHONY: demo test test-superset test-engines lint types audit format site bench clean

demo: $(STAMP)
	$(BIN)/aspects-pii demo

test: $(STAMP) $(TUTOR_STAMP)
	$(BIN)/python tests/each_file.py $(ARGS)

test-superset: $(STAMP) $(SUPERSET_STAMP)
	$(BIN)/python -m pytest -q tests/superset

# ARGS chooses files and options, as for `make test`.
test-engines: .venv-engine-25.8/.installed .venv-engine-24.8/.installed
	.venv-engine-24.8/bin/python tests/each_file.py tests/integration/clickhouse/test_migrations.py -k oldest
	.venv-engine-25.8/bin/python tests/each_file.py $(or $(ARGS),$(ENGINE_TESTS))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint dbt_project/models dbt_project/tests
	$(BIN)/code_annotations static_find_annotations --config_file .annotations.yaml --lint --no_report
	$(BIN)/python -m tests.support.sql_annotations sql dbt_project/models
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Into build/site; `lint` builds it too, since a dead link is an error there.
site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

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

# ARGS chooses parts and the size: `make bench ARGS="ledger --size 1000000"`.
bench: $(STAMP)
	$(BIN)/python -m benchmarks $(ARGS)

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up $(VENV), which takes about two minutes the first time …" >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Where Tutor cannot be installed its tests are skipped, saying so; with REQUIRE_SERVICES=1 they fail.
$(TUTOR_STAMP): pyproject.toml tests/services/doors/tutor/constraints.txt
	@echo "Setting up $(TUTOR_VENV), for the tests of the Tutor plugin …" >&2
	$(PYTHON) -m venv $(TUTOR_VENV)
	$(TUTOR_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint tests/services/doors/tutor/constraints.txt --editable '.[tutor]' \
		&& touch $@ || echo "Tutor could not be installed." >&2

# A real Apache Superset, which cannot live beside our own dependencies.
$(SUPERSET_STAMP): tests/superset/requirements.txt
	$(PYTHON) -m venv $(SUPERSET_VENV)
	$(SUPERSET_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

# The .pth file puts our adapter before the package that is installed.
.venv-engine-%/.installed: pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv .venv-engine-$*
	grep --invert-match '^chdb' constraints.txt > .venv-engine-$*/constraints.txt
	.venv-engine-$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv-engine-$*/constraints.txt \
		--editable '.[server]' Faker hypothesis jsonschema pytest pytest-timeout $(ENGINE_$*)
	.venv-engine-$*/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" | xargs -I{} sh -c \
		"echo \"import sys; sys.path.insert(0, '$(CURDIR)/tests/engines/older')\" > {}/older_chdb.pth"
	touch $@

clean:
	rm -rf $(VENV) $(SUPERSET_VENV) $(TUTOR_VENV) $(AUDIT_VENV) .venv-engine-* build dist .pytest_cache .mypy_cache .ruff_cache dbt_project/target dbt_project/logs
