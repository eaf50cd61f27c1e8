# make demo: run the whole workflow on the bundled model    make test: run the tests    make check: lint, types, import contracts
# make test-fast: the tests of the inner loop    make coverage: every test, exhaustive ones included, with a coverage report
# make docs: build docs/ as a site, in site/    make cast: record the app (needs tmux)
PYTHON ?= $(shell command -v python3.14 || command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Python compiles a module when it is first imported, which takes less time than compiling all that is installed. Processes share
# the result, also where the environment says otherwise.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt
export PYTHONDONTWRITEBYTECODE :=
# Three processes on two cores, because some tests wait for programs that they start.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-fast coverage check docs screenshots cast format clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("mlxtune needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[grammar]'
	touch $@

$(VENV)/.dev: $(VENV)/.ready
	$(INSTALL) -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/mlxtune demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow and not real'

coverage: $(VENV)/.dev
	MLXTUNE_EXHAUSTIVE=1 $(BIN)/python -m pytest $(PARALLEL) --cov=mlxtune --cov-report=term:skip-covered

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.ready
	$(INSTALL) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

screenshots: $(VENV)/.dev
	test -d demo || $(BIN)/mlxtune demo
	$(BIN)/python tools/screenshots.py demo

cast: $(VENV)/.dev
	command -v tmux >/dev/null || { echo "make cast needs tmux: brew install tmux, or apt install tmux"; exit 1; }
	test -d demo || $(BIN)/mlxtune demo
	$(BIN)/python tools/cast.py demo

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis
