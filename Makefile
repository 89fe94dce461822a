# Everything a developer runs. Each target sets up .venv by itself; PYTHON chooses the interpreter it is made with.
PYTHON ?= python3
VENV := .venv
# Tests run on half as many workers again as there are cores, since some only wait.
export PYTEST_XDIST_AUTO_NUM_WORKERS := $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 3 / 2 )))

.PHONY: test nightly lint demo docs bench bench-repair bench-health bench-rollout mutants faults matrix released clean

# Each worker has a PostgreSQL of its own.
test: $(VENV)/.dev
	$(VENV)/bin/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

# 50 kills of a server, then the tests with random input, with much more of it than `make test` tries, and other input each
# time: some two hours of a core, shared among all there are; what takes longest begins first.
nightly: faults
	HYPOTHESIS_PROFILE=nightly $(VENV)/bin/python -m pytest --numprocesses=auto --dist=load --maxschedchunk=1 --verbose tests/histories $$(grep -rlE 'hypothesis|from profiles' tests --include='test_*.py')

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# DEMO passes options on: make demo DEMO='--variant translatable', DEMO='--report demo.html' (the page about its links).
demo: $(VENV)/.demo
	@$(VENV)/bin/pyflowguard demo $(DEMO)

# What is generated of the documentation: the SQL reference, and what the commands in documents print.
docs: $(VENV)/.dev
	$(VENV)/bin/python docs/reference.py
	PYFLOWGUARD_WRITE_DOCS=1 $(VENV)/bin/python -m pytest --quiet tests/acceptance/test_documents.py

# What the guard costs, as ratios, on every PostgreSQL that is there: a quarter of an hour each, on a machine at rest.
# BENCH passes options on: make bench BENCH='--only single', BENCH='--write docs/costs.md'.
bench: $(VENV)/.dev
	PYTHONPATH=tests $(VENV)/bin/python -m benchmarks.bench $(BENCH)

# How repair and undo grow from ten thousand rows to a million, in time and memory, against one ideal UPDATE: half an hour.
# BENCH passes options on: make bench-repair BENCH='--rows 10000 --rows 10000000'.
bench-repair: $(VENV)/.dev
	PYTHONPATH=tests $(VENV)/bin/python -m benchmarks.bench_repair $(BENCH)

# What it costs to ask for health, by proof, by counting and by the report's queries, from ten thousand rows to ten million:
# five minutes, and some GB of disk. BENCH passes options on: make bench-health BENCH='--rows 10000 --rows 100000'.
bench-health: $(VENV)/.dev
	PYTHONPATH=tests $(VENV)/bin/python -m benchmarks.bench_health $(BENCH)

# What applications notice while the guard is rolled out beside them: ten minutes, on a machine at rest.
# ROLLOUT passes options on: make bench-rollout ROLLOUT='--rows 100000 --write docs/roll-out.md'.
bench-rollout: $(VENV)/.dev
	PYTHONPATH=tests $(VENV)/bin/python -m benchmarks.rollout $(ROLLOUT)

# Shows that the tests fail on each of many deliberate faults of the engine: some minutes. MUTANTS passes options on:
# make mutants MUTANTS='--only tie', MUTANTS=--markdown.
mutants: $(VENV)/.dev
	PYTHONPATH=tests $(VENV)/bin/python -m mutants.run $(MUTANTS)

# Kills a server at random moments while an application writes and links are guarded, repaired and undone: about ten
# minutes. FAULTS passes options on: make faults FAULTS='--kills 200', FAULTS='--seed 7 --only undo'.
faults: $(VENV)/.dev
	PYTHONPATH=tests $(VENV)/bin/python -m faults.run $(FAULTS)

# The tests on PostgreSQL 14 to 18. MATRIX passes options on: make matrix MATRIX='--only 15 tests/engine'.
matrix: $(VENV)/.dev
	PYTHONPATH=tests $(VENV)/bin/python -m matrix.run $(MATRIX)

# Writes into released.json what the plan's last release tag covers; from then on tests hold it to that.
released: $(VENV)/.dev
	PYTHONPATH=tests $(VENV)/bin/python -m releases.record

clean:
	rm -rf $(VENV) build dist

# The demonstration needs the package, a server and what its page needs, which is quicker to install than what tests and linters need.
$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "PyFlowGuard needs Python 3.10 or later: no $(PYTHON) found. Try: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "PyFlowGuard needs Python 3.10 or later: $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(VENV)/bin/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
