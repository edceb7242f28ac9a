# Python 3.11 or newer and make are all that these need; each makes .venv on first use.
PYTHON ?= python3
BIN := .venv/bin
# Tests run side by side, each on one thread.
WORKERS ?= 2

.PHONY: demo test test-quick test-slow lab lint

demo: .venv/installed  ## execute the quickstart; prints where its report lies
	$(BIN)/python -m simclr_lib run notebooks/00_quickstart.ipynb

test: .venv/installed  ## the whole test suite, but what takes minutes
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-quick: .venv/installed  ## for use while working: without notebooks, child processes and the recorded trainings
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow and not child' --ignore tests/test_nothing_changed.py

test-slow: .venv/installed  ## what takes minutes, and what repeats with fresh seeds
	$(BIN)/python -m pytest -m slow

lab: .venv/installed  ## JupyterLab in the same environment
	$(BIN)/jupyter lab

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	@echo "Installing into .venv: PyTorch, JupyterLab and what the tests compare with. This takes a few minutes, once."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
