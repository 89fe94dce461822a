# Everything a developer runs. Each target sets up .venv by itself; PYTHON chooses the interpreter it is made with.
PYTHON ?= python3
VENV := .venv

.PHONY: test lint demo mutants clean

test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

demo: $(VENV)/.server
	@$(VENV)/bin/pyflowguard demo

# Shows that the tests fail on each of many deliberate faults of the engine: some minutes. MUTANTS passes options on:
# make mutants MUTANTS='--only tie', MUTANTS=--markdown.
mutants: $(VENV)/.dev
	PYTHONPATH=tests $(VENV)/bin/python -m mutants.run $(MUTANTS)

clean:
	rm -rf $(VENV) build dist

# The demonstration needs the package and a server, which is quicker to install than what tests and linters need.
$(VENV)/.server $(VENV)/.dev: $(VENV)/.%: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "PyFlowGuard needs Python 3.10 or later: no $(PYTHON) found. Try: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "PyFlowGuard needs Python 3.10 or later: $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(VENV)/bin/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
