# Needs Python 3.11 or newer and make; everything else goes into .venv.

# The first that is new enough; say "make install PYTHON=/path/to/python3.12" to choose.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
PYTEST_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq

export PIP_ROOT_USER_ACTION := ignore
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help install demo test lint clean FORCE

help: ## show this list
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/\1	\2/p' Makefile | while IFS='	' read -r target text; do printf 'make %-8s %s\n' "$$target" "$$text"; done

install: .venv/.runtime .venv/.test .venv/.lint ## install the package, editable, with all its tools, into .venv

demo: .venv/.runtime ## run the demo: an embedded PostgreSQL, a worker, and what the journal shows of them
	@$(BIN)/celery-journal demo

test: .venv/.runtime .venv/.test ## run every test; PYTEST_ARGS="-k append" chooses some
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

# All four, so that one run shows everything there is to mend.
lint: .venv/.runtime .venv/.test .venv/.lint ## check style, format, types and the layers
	@failed=0; \
	$(BIN)/ruff check || failed=1; \
	$(BIN)/ruff format --check || failed=1; \
	$(BIN)/mypy || failed=1; \
	$(BIN)/lint-imports --no-logo || failed=1; \
	exit $$failed

clean: ## remove .venv and everything else that was made here
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find sql journal projections consumers tests -name __pycache__ -prune -exec rm -rf {} +

# pip knows dependency groups from 25.1 on.
.venv/.python:
	@python="$(PYTHON)"; \
	if [ -z "$$python" ] || ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "celery-journal needs Python 3.11 or newer, but $${python:-python3} is $$($${python:-python3} --version 2>/dev/null || echo missing): install one, or name it with make PYTHON=/path/to/python3.11." >&2; \
		exit 1; \
	fi; \
	echo "Installing into .venv ..."; \
	"$$python" -m venv --clear .venv
	@$(PIP) 'pip>=25.1,<27'
	@touch $@

# A strict editable install links file by file: a changed file is seen at once, a new one only by installing again.
.venv/.sources: .venv/.python FORCE
	@[ -d build ] || rm -f $@
	@find sql journal projections consumers -name '*.py' -o -name '*.sql' -o -name py.typed | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

.venv/.runtime: .venv/.python .venv/.sources pyproject.toml
	@$(PIP) -e '.[embedded]' --config-settings editable_mode=strict
	@touch $@

.venv/.test .venv/.lint: .venv/.%: .venv/.python pyproject.toml
	@$(PIP) --group $*
	@touch $@
