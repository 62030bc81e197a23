# One virtual environment, two commands: `make quickstart` trains the deep ConvSNN on data that ships here, `make test` checks.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    := env -u PYTHONPATH $(BIN)/python

.PHONY: help quickstart reproduce test slow lint format clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

quickstart: $(VENV)/.installed  ## train the deep ConvSNN on the embedded spoken digits (5 minutes on 2 cores)
	$(RUN) Classification/deep_convSNN.py --config-name=config_quickstart

TIER ?= minutes
reproduce: $(VENV)/.installed  ## run what the papers' claims need, TIER=minutes|hours|gpu, and write docs/papers.md
	$(RUN) scripts/papers_table.py --run $(TIER)

test: lint  ## every check: environment, ruff, tests, notebooks
	$(RUN) -m pytest --numprocesses=auto --nbmake tests Sigmoid_network Classification/tutorials

slow: $(VENV)/.installed-dev  ## the tests that take minutes, and a mutation run over the numerics
	$(RUN) -m pytest -m slow
	$(RUN) scripts/mutation_run.py

lint: $(VENV)/.installed-dev  ## ruff: style and mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove caches; runs and the environment stay
	rm -rf .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
