# Needs Python 3.11 or newer and make; everything else goes into .venv, or with CELERY=5.6.3 into .venv-celery-5.6.3.

# The first that is new enough; say "make install PYTHON=/path/to/python3.12" to choose.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
PYTEST_ARGS ?=

# Test modules at a time: most of their time they wait. JOBS=0 is all in one process, for a debugger.
JOBS ?= 5

# The version of Celery; the newest that the package allows unless given. Each has an environment of its own.
CELERY ?=
VENV := .venv$(if $(CELERY),-celery-$(CELERY))
BIN := $(VENV)/bin

# The group of pyproject.toml that goes with it: celery-5.6 for every 5.6.x.
SERIES := celery-$(or $(basename $(CELERY)),5.7)

# What "make conformance" runs: BROKER=redis or rabbitmq (default: each that answers), BACKEND=redis for Celery's own, MODULES="test_canvas test_tasks"
# (default: all), EXCEPT="test_canvas".
BROKER ?=
BACKEND ?=
MODULES ?=
EXCEPT ?=

# What "make chaos" runs: the run in which things die, and the broadcast in full flow. SEED repeats the choices of an earlier run, TASKS is
# how many are sent; CHAOS_ARGS="--keep" leaves all its logs, and --crash kills the database instead of stopping it.
CHAOS ?= run flood
SEED ?=
TASKS ?= 10000
CHAOS_ARGS ?=

PIP := $(BIN)/python -m pip install -qq

export PIP_ROOT_USER_ACTION := ignore
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help install demo test conformance chaos lint clean FORCE

help: ## show this list
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/\1	\2/p' Makefile | while IFS='	' read -r target text; do printf 'make %-11s %s\n' "$$target" "$$text"; done

install: $(VENV)/.runtime $(VENV)/.test $(VENV)/.lint ## install the package, editable, with all its tools, into .venv

demo: $(VENV)/.runtime ## run the demo: an embedded PostgreSQL, a worker, and what the journal shows of them
	@$(BIN)/celery-journal demo

test: $(VENV)/.runtime $(VENV)/.test ## run every test; PYTEST_ARGS="-k append" chooses some, CELERY=5.6.3 another Celery
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

conformance: $(VENV)/.runtime $(VENV)/.conformance ## run Celery's own integration suite; CELERY=5.6.3, BROKER=redis, BACKEND=redis, MODULES=test_canvas, EXCEPT=test_canvas choose
	@$(BIN)/python -m tests.conformance $(addprefix --broker ,$(BROKER)) $(addprefix --backend ,$(BACKEND)) $(addprefix --except ,$(EXCEPT)) $(MODULES)

chaos: $(VENV)/.runtime $(VENV)/.test ## kill workers, captures, broker and database under 10,000 tasks, and compare; SEED=1 TASKS=500 CHAOS=run choose
	@failed=0; \
	$(if $(filter run,$(CHAOS)),$(BIN)/python -m tests.chaos $(addprefix --seed ,$(SEED)) --tasks $(TASKS) $(CHAOS_ARGS) || failed=1;) \
	$(if $(filter flood,$(CHAOS)),$(BIN)/python -m tests.chaos.flood || failed=1;) \
	exit $$failed

# All four, so that one run shows everything there is to mend.
lint: $(VENV)/.runtime $(VENV)/.test $(VENV)/.lint ## check style, format, types and the layers
	@failed=0; \
	$(BIN)/ruff check || failed=1; \
	$(BIN)/ruff format --check || failed=1; \
	$(BIN)/mypy || failed=1; \
	$(BIN)/lint-imports --no-logo || failed=1; \
	exit $$failed

clean: ## remove .venv and everything else that was made here
	rm -rf .venv .venv-celery-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find sql journal projections consumers tests -name __pycache__ -prune -exec rm -rf {} +

# pip knows dependency groups from 25.1 on.
$(VENV)/.python:
	@python="$(PYTHON)"; \
	if [ -z "$$python" ] || ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "celery-journal needs Python 3.11 or newer, but $${python:-python3} is $$($${python:-python3} --version 2>/dev/null || echo missing): install one, or name it with make PYTHON=/path/to/python3.11." >&2; \
		exit 1; \
	fi; \
	echo "Installing into $(VENV) ..."; \
	"$$python" -m venv --clear $(VENV)
	@$(PIP) 'pip>=25.1,<27'
	@touch $@

# A strict editable install links file by file: a changed file is seen at once, a new one only by installing again.
$(VENV)/.sources: $(VENV)/.python FORCE
	@[ -d build ] || rm -f $@
	@find sql journal projections consumers -name '*.py' -o -name '*.sql' -o -name py.typed | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(VENV)/.runtime: $(VENV)/.python $(VENV)/.sources pyproject.toml
	@$(PIP) -e '.[embedded]' $(CELERY:%=celery==%) --group $(SERIES) --config-settings editable_mode=strict
	@touch $@

$(VENV)/.test $(VENV)/.conformance $(VENV)/.lint: $(VENV)/.%: $(VENV)/.python pyproject.toml
	@$(PIP) --group $* --group $(SERIES)
	@touch $@
