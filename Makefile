# Every target sets up $(VENV) by itself when it is missing or when pyproject.toml has changed.
SHELL := /bin/bash
# The first interpreter from 3.11 to 3.13 on this machine; override with `make PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

DOCS := $(VENV)-docs

.PHONY: demo test test-all lint format bench docs clean
.DEFAULT_GOAL := demo

demo: $(READY)
	$(BIN)/kdsim demo

# A process for each core, of one thread each; the tests of a file stay together, since they share what is dear to start.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile

# A later -m or --numprocesses in PYTEST_ARGS takes the place of this one.
test: $(READY)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: $(READY)
	$(PYTEST) $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python -m benchmarks

# The site, in site/: mkdocs has an environment of its own, beside that of kdsim, which draws the gallery.
docs: $(READY) $(DOCS)/.ready
	$(BIN)/python docs/gallery.py
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict --quiet
	@echo "the documentation is in site/index.html"

clean:
	rm -rf .venv .venv-* build site docs/gallery *.egg-info .pytest_cache .ruff_cache .mypy_cache

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "kdsim needs Python 3.11, 3.12 or 3.13; none was found. Install one, or name it: make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# By a path, not by a finder: a folder called kdsim beside a script, such as a clone, would go before a finder.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[dev]'
	@touch $@

# What the extra `docs` names, and not kdsim: the reference is made from the files, without importing them.
$(DOCS)/.ready: pyproject.toml
	test -x $(DOCS)/bin/python || $(BIN)/python -m venv $(DOCS)
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" > $(DOCS)/needs.txt
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r $(DOCS)/needs.txt
	@touch $@
