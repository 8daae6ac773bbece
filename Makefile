# The commands of a developer and of CI are the same ones. Everything happens in .venv and build/.

# The first interpreter that Kaizen supports; PYTHON=... chooses another.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifndef PYTHON
PYTHON := $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	if $$p -c '$(SUPPORTED)' 2>/dev/null; then echo $$p; break; fi; done),python3)
endif
# More than two cores have: tests of engines and of Airflow wait more than they work.
JOBS ?= 3

BIN := .venv/bin
READY := .venv/.ready
TORCH := .venv/.torch
OLDEST := build/oldest
APART := build/apart
SMOKED := core airflow kedro all
PIP := -m pip --disable-pip-version-check --quiet

# No tool that a target starts reports home.
export KEDRO_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
# Threads that wait for each other give their core away: several processes share two.
export OMP_WAIT_POLICY := passive

.DEFAULT_GOAL := help
.PHONY: help setup test long demo demo-ui demo-apart backtest bench faults soak lint format wheel smoke constraints clean stack-secrets up status logs down python

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything that is needed here; afterwards no network is

# Build requirements come first and pinned, so that no build needs an environment of its own. setuptools builds the
# flights' data package, which comes as source only.
$(READY): pyproject.toml constraints/dev.txt | python
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) install -c constraints/dev.txt hatchling editables build setuptools
	$(BIN)/python $(PIP) install -c constraints/dev.txt --no-build-isolation -e '.[demo,dev]'
	touch $@

python:
	@$(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { \
		echo "Kaizen needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -n 1)."; \
		echo "Install one of them, or name it: make setup PYTHON=python3.12"; exit 1; } >&2

# Files in the order of their names, not of their numbers of tests: the few long ones come early.
test: lint ## lint, then the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

long: setup ## the long tests, which test leaves out: kills and comparisons through Airflow, Docker and other processes
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'long and not soak and not drill'

demo: setup ## the flights of 2013 on a real Airflow, month by month, against the backtest: build/demo
	$(BIN)/python -m demo.run

demo-ui: setup ## the same, and leave that Airflow running: prints its URL and login
	$(BIN)/python -m demo.run --ui

demo-apart: setup $(APART)/.ready ## the demo with an Airflow that has only [airflow]; its stages run by .venv
	$(BIN)/python -m demo.run --apart $(APART)/bin/python --out build/demo-apart

$(APART)/.ready: pyproject.toml constraints/dev.txt $(READY)
	rm -rf $(APART)
	$(PYTHON) -m venv $(APART)
	$(APART)/bin/python $(PIP) install -c constraints/dev.txt hatchling editables
	$(APART)/bin/python $(PIP) install -c constraints/dev.txt --no-build-isolation -e '.[airflow]'
	touch $@

backtest: setup ## replay the flights of 2013 through a new project: build/flights, build/backtest
	rm -rf build/flights build/backtest
	mkdir -p build
	printf '%s\n' 'output_dir: build' 'project_name: Flights' 'repo_name: flights' 'python_package: flights' \
		> build/flights.yml
	$(BIN)/kedro new --starter=kaizen-flights --config build/flights.yml --telemetry no
	$(BIN)/kaizen backtest build/flights/conf/base/kaizen.yml --out build/backtest

# Hundreds of MiB that only the example in docs/examples/torch_flights needs.
$(TORCH): constraints/torch.txt $(READY)
	$(BIN)/python $(PIP) install -c constraints/dev.txt -c constraints/torch.txt --no-build-isolation -e '.[torch]'
	touch $@

bench: setup $(TORCH) ## run every benchmark, ours and the peers' side by side
	set -e; for each in benchmarks/*.py; do echo "== $$each"; $(BIN)/python $$each; done

faults: setup ## every fault of containers and data, with small numbers, and a table of what was seen: build/faults.json
	$(BIN)/python -m pytest tests/docker tests/faults -m 'fault and not soak' --faults build/faults.json

soak: setup $(OLDEST)/.ready $(TORCH) ## long campaigns with more seeds, then the tests on the oldest supported versions
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m '' --hypothesis-profile soak --faults build/soak.json
	$(OLDEST)/bin/python -m pytest -n $(JOBS) --dist loadfile --ignore tests/packaging
	$(MAKE) demo-apart

$(OLDEST)/.ready: pyproject.toml constraints/oldest.txt $(READY)
	rm -rf $(OLDEST)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python $(PIP) install -c constraints/dev.txt hatchling editables setuptools pytest pytest-xdist hypothesis
	$(OLDEST)/bin/python $(PIP) install -c constraints/oldest.txt --no-build-isolation -e '.[demo]' \
		'moto[s3]' flask-cors dvc-s3
	touch $@

lint: setup ## style, types and the arrows between the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## put the code into the house's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: setup ## build dist/kaizen_mlops-*.whl
	rm -rf dist
	$(BIN)/python -m build --no-isolation --wheel --outdir dist

smoke: wheel ## install the wheel into clean environments and use it: core only, [airflow], [kedro], [all]
	set -e; for each in $(SMOKED); do $(PYTHON) tests/packaging/smoke.py dist/*.whl $$each; done

# The stack on one machine: docker-compose.yml. A shell asks for compose v2 only when a target needs it.
COMPOSE = $(if $(shell docker compose version 2>/dev/null),docker compose,docker-compose)
SERVICE ?=

stack-secrets: ## write the stack's passwords and keys, those that are missing: stack/secrets, .env
	@$(PYTHON) stack/make_secrets.py

up: stack-secrets wheel ## start the stack (PostgreSQL, MLflow, Airflow, Docker proxy) from docker-compose.yml
	mkdir -p loops
	$(COMPOSE) up --detach
	@echo "Airflow: http://127.0.0.1:8080 as admin, password in stack/secrets/airflow_passwords. MLflow: http://127.0.0.1:5000"

status: ## what the stack's services do, and how healthy they are
	@$(COMPOSE) ps

logs: ## follow the stack's logs; SERVICE=airflow-scheduler for one service
	@$(COMPOSE) logs --follow --tail=100 $(SERVICE)

down: ## stop the stack; what it keeps stays in its volumes
	$(COMPOSE) down

# The only target with a tool that setup does not install: uv resolves for all Pythons at once, pip cannot.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header pyproject.toml
constraints: ## resolve constraints/*.txt anew (needs uv)
	$(COMPILE) --upgrade --extra demo --extra dev --output-file constraints/dev.txt
	$(COMPILE) --upgrade --extra demo --resolution lowest-direct --output-file constraints/oldest.txt

clean: ## remove what the targets above made, except .venv
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
