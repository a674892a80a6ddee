# The verbs of this project. `make help` lists them. Needs make and Python 3.11 or newer, nothing else.

# The first Python that is new enough; override with `make run PYTHON=/path/to/python3.12`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check -q
UV_VERSION = 0.13.8

# What `make run` passes on to `depot up`, such as ARGS="--web-port 9000".
ARGS ?=
# What the test verbs pass on to pytest, such as T="-k upload -x".
T ?=

.DEFAULT_GOAL := help
.PHONY: help run test check lint types bench package assets test-slow test-clients test-browser screenshots test-nas lock clean dev

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: $(VENV)/.run assets ## start everything on this machine (web tier on http://127.0.0.1:8000); Ctrl-C stops it
	@exec $(VENV)/bin/depot up $(ARGS)

test: $(VENV)/.dev ## unit and functional tests, without the slow ones (4 to 5 minutes on two cores, loopback only)
	@$(PY) -m pytest -n auto --dist loadfile -m "not slow and not nas and not clients" $(T)

check: lint types test ## everything a change must pass

lint: $(VENV)/.dev ## ruff (rules and format) and the import rules
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/lint-imports --no-cache

types: $(VENV)/.dev ## mypy, strict
	@$(VENV)/bin/mypy

bench: $(VENV)/.dev ## measure throughput, memory and CPU; writes docs/benchmarks.md
	@$(PY) -m bench $(ARGS)

package: $(VENV)/.run assets ## dist/web.zip and dist/services.zip for AWS Lambda
	@$(PY) -m infra.package $(ARGS)

test-slow: $(VENV)/.dev ## large files, strace, kill loops
	@$(PY) -m pytest -n auto --dist loadfile -m "slow and not nas and not clients" tests $(T)

test-clients: $(VENV)/.dev ## other people's tus clients through both tiers (needs node 18 or newer and npm)
	@$(PY) -m pytest -m clients tests/integration $(T)

test-browser: $(VENV)/.dev assets ## the pages in Chromium (needs /usr/bin/chromium, node and npm)
	@$(PY) -m pytest -m "browser and not nas" tests/browser $(T)

screenshots: $(VENV)/.dev assets ## take the pictures of docs/pages.md again
	@$(PY) -m tests.browser.screenshots docs/screenshots

test-nas: $(VENV)/.dev assets ## the functional and integration suites against Ceph RGW (installs it on Debian, as root)
	@infra/local/test-nas $(PY) $(T)

lock: $(VENV)/.run ## compile requirements*.in into requirements*.txt
	@$(PIP) install --target .build/uv uv==$(UV_VERSION)
	@for f in requirements requirements-dev requirements-web requirements-services tests/support/lambda_runtime; do \
		.build/uv/bin/uv pip compile -q --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
			--custom-compile-command "make lock" --default-index https://pypi.org/simple $$f.in -o $$f.txt $(ARGS) || exit 1; \
	done

clean: ## remove what was built; keeps .depot (the state of `make run`)
	@rm -rf $(VENV) .build dist frontend/node_modules chalicelib/web/static/build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

ASSETS = chalicelib/web/static/build/upload.js

assets: ## build the upload page's script and style, where Node (18 or newer) is
	@if command -v npm >/dev/null && node -e 'process.exit(+process.versions.node.split(".")[0] < 18 ? 1 : 0)' 2>/dev/null; then \
		$(MAKE) --no-print-directory $(ASSETS); \
	else \
		echo "No Node 18 or newer here: the upload page will be a plain form, one file at a time, without resuming."; \
	fi

$(ASSETS): frontend/package-lock.json frontend/build.mjs $(wildcard frontend/src/*)
	@echo "Building the upload page ..."
	@cd frontend && npm ci --ignore-scripts --no-audit --no-fund --silent && node build.mjs
	@touch $@

dev: $(VENV)/.dev ## make the environment for tests and checks

# --- the virtual environment: made once, made again when a lock changes ---------------------------------------

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Depot needs Python 3.11 or newer; none was found. Install one, or: make run PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Depot needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) -V 2>&1`" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) lacks venv: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python requirements.txt pyproject.toml
	@echo "Installing requirements.txt (hashes checked) ..."
	@$(PIP) install --require-hashes -r requirements.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	@echo "Installing requirements-dev.txt (hashes checked) ..."
	@$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@
