# One virtual environment, two commands: `make quickstart` trains the deep ConvSNN on data that ships here, `make test` checks.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    := env -u PYTHONPATH $(BIN)/python

.PHONY: help quickstart reproduce ladder test slow lint format docs dist clean
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
reproduce: $(VENV)/.installed  ## run what the papers' claims need, TIER=minutes|hours|gpu, and write docs/papers.md; DRY=1: the plan
	$(RUN) scripts/papers_table.py --run $(TIER) $(if $(DRY),--dry)

ladder: $(VENV)/.installed  ## what every part buys on spoken commands of unseen speakers, TIER=minutes|hours
	$(RUN) scripts/ladder.py --run $(TIER)

test: lint docs  ## every check: environment, style, types, the site with its tutorials executed, tests
	$(RUN) -m pytest --numprocesses=auto tests

slow: $(VENV)/.installed-dev  ## the tests that take minutes, a mutation run over the numerics; TORCH="2.9.1 2.13.0": with those PyTorch
	$(RUN) -m pytest -m slow
	$(RUN) scripts/mutation_run.py
	$(if $(TORCH),$(PYTHON) scripts/torch_versions.py $(TORCH))

lint: $(VENV)/.installed-dev  ## style, mistakes and types: ruff, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev  ## build the documentation into build/site; a warning is an error
	$(RUN) scripts/docs_site.py

dist: $(VENV)/.installed-dev  ## build the wheel, with compiled kernels, and the source archive into dist/
	$(RUN) scripts/prebuild_kernels.py
	$(BIN)/python -m build --sdist --wheel

clean:  ## remove caches; runs and the environment stay
	rm -rf .pytest_cache .ruff_cache .mypy_cache .cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
