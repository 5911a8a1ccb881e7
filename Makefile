# Each of these sets up what it needs in .venv, on a fresh clone too.
PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo

.PHONY: help demo test test-slow test-services coverage lint types layers check docs clean

help:
	@echo "make demo       fill a store with examples/proteins.faa, twice, and read it back"
	@echo "make test       run the tests"
	@echo "make test-slow  run the long tests too: hundreds of killed processes, every byte flipped"
	@echo "make test-services  install real servers (Azurite, s3rver, nginx, Slurm) where that is possible, and test with them"
	@echo "make coverage   run the tests and count the lines and branches that they reach, into build/coverage"
	@echo "make check      lint, types, layers"
	@echo "make docs       build the site into build/site; open build/site/index.html"

.venv/base: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "embedstore needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/dev: .venv/base
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,docs]'
	@touch $@

.venv/docs: .venv/base
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

demo: .venv/base
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	$(BIN)/embedstore init $(DEMO)/store
	@echo "\n# The first fill computes everything, the second nothing."
	$(BIN)/embedstore fill examples/proteins.faa --model aac_dpc --store $(DEMO)/store
	$(BIN)/embedstore fill examples/proteins.faa --model aac_dpc --store $(DEMO)/store
	@echo
	$(BIN)/embedstore ls --store $(DEMO)/store
	$(BIN)/embedstore get examples/proteins.faa --model aac_dpc --store $(DEMO)/store -o $(DEMO)/proteins.npz
	$(BIN)/python -c 'import numpy; d = numpy.load("$(DEMO)/proteins.npz"); print(d["ids"][0], d["X"].shape, d["X"].dtype)'

test: .venv/dev
	$(BIN)/pytest

test-slow: .venv/dev
	$(BIN)/pytest -m ''

test-services: .venv/dev
	tests/services/install
	$(BIN)/pytest -m '' tests/services

coverage: .venv/dev
	@mkdir -p build/coverage && rm -f build/coverage/data*
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report --format=total

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

layers: .venv/dev
	$(BIN)/lint-imports

check: lint types layers

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

clean:
	rm -rf .venv build
