# `make run` needs nothing but Python 3.11 with venv; `make test` also installs Chromium where apt is there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8000

.PHONY: run test test-fast lint bench bench-gpu soak reproduce install install-dev browser clean

run: $(VENV)/.run
	$(BIN)/paretopath serve --demo --port $(PORT)

test: install-dev browser
	$(BIN)/pytest

test-fast: install-dev
	$(BIN)/pytest -n 2 -m "not slow and not browser"

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: install-dev
	$(BIN)/python -m benchmarks

bench-gpu: install-dev
	$(BIN)/python -m benchmarks --device cuda --problem digits --problem million --problem mnist --problem lenet --problem cifar

soak: install-dev
	$(BIN)/python -m benchmarks.soak

reproduce: install-dev
	$(BIN)/python -m benchmarks.reproduce

install: $(VENV)/.run
install-dev: $(VENV)/.dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.run

# Tests fail, not skip, without a browser; here it is installed where that can be done.
browser:
	@command -v chromium >/dev/null || { \
	  command -v apt-get >/dev/null || { echo "install Chromium, then run make test again"; exit 1; }; \
	  if [ "$$(id -u)" = 0 ]; then SUDO=; else SUDO=sudo; fi; \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq --no-install-recommends chromium; }

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache dist build
