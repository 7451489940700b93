# `make train` and `make test` create the virtual environment, install the pinned requirements and run.
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
# The tests' files are shared out over this many processes; each takes up to 6 GB.
WORKERS ?= 2
PRESET ?=

# More for pytest, for example PYTEST_FLAGS=--cov.
PYTEST_FLAGS ?=

.PHONY: train sample export check test processes lint types format slow peers slow-peers

train: $(VENV)/runtime
	$(VENV)/bin/python main.py --mode=train $(if $(PRESET),--preset=$(PRESET))
	$(VENV)/bin/python main.py --mode=sample $(if $(PRESET),--preset=$(PRESET))

sample export: $(VENV)/runtime
	$(VENV)/bin/python main.py --mode=$@ $(if $(PRESET),--preset=$(PRESET))

check: lint types
	$(VENV)/bin/python -m pytest tests/unit tests/contracts -n $(WORKERS) --dist worksteal

test: lint types
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_FLAGS)

processes: $(VENV)/development
	$(VENV)/bin/python -m pytest -m "processes and not slow" -n $(WORKERS) --dist worksteal

slow: $(VENV)/development
	$(VENV)/bin/python -m pytest -m slow

peers: $(PEERS)/installed
	$(PEERS)/bin/python -m pytest -m "peers and not slow" -n $(WORKERS) --dist worksteal

slow-peers: $(PEERS)/installed
	$(PEERS)/bin/python -m pytest -m "peers and slow"

lint: $(VENV)/development
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types: $(VENV)/development
	$(VENV)/bin/mypy

format: $(VENV)/development
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

$(VENV)/python:
	$(PYTHON) -c "import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else 'Python 3.11 to 3.13 is needed, this is ' + sys.version.split()[0] + '; choose another with: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/runtime: requirements.txt | $(VENV)/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/development: requirements-dev.txt requirements.txt | $(VENV)/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	touch $@

$(PEERS)/installed: requirements-peers.txt requirements-dev.txt requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt -r requirements-peers.txt
	touch $@
