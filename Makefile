# Targets set up their own virtual environment, once, at the versions of
# requirements.txt. `make help` lists them.

VENV ?= .venv
PYTHON ?= python3
QUICK ?=
ARGS ?=

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PY := $(VENV)/bin/python
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed

# $(call install,EXTRAS): the environment if there is none, then this package in
# it. Of pip's output only downloads of megabytes are shown.
define install
	@if [ ! -x $(VENV)/bin/pip ]; then \
	  $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	    || { echo "error: $$($(PYTHON) --version 2>&1) does not do; set PYTHON to a Python 3.11 or 3.12" >&2; exit 1; }; \
	  echo "creating $(VENV)"; \
	  $(PYTHON) -m venv $(VENV); \
	fi
	@echo "installing into $(VENV) (about a minute, 1.3 GB; with PyTorch 2 GB)"
	@$(PY) -m pip install --disable-pip-version-check --progress-bar off \
	  -c requirements.txt -e '.$(1)' \
	  | awk '/^ *(Downloading|Using cached) .* MB/ { print "  " $$2, $$3, $$4; fflush() }'
endef

.PHONY: help demo benchmark benchmark-gpu test test-slow test-nans lint format docs wheel-check image-check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: QUICK=1 (short demo), ARGS='...' (for the demo, the benchmarks or pytest), VENV, PYTHON."

demo: $(RUNTIME) ## the whole story on the bundled teacher, in minutes on a CPU
	@$(PY) -m experiments.demo $(if $(filter-out 0 no false,$(QUICK)),--quick) $(ARGS)

benchmark: $(DEV) ## latency of planning by model size, beside plain products and PyTorch, in minutes
	@$(PY) -m experiments.benchmark_planning --output=results/benchmark $(ARGS)

benchmark-gpu: $(DEV) ## the same on a GPU; needs CUDA JAX: pip install -e '.[cuda]'
	@$(PY) -m experiments.benchmark_planning --device=cuda --sizes=1,5 --batch_sizes=1,64 \
	  --precision=float32,bfloat16 --matmul_precision=tensorfloat32 --cross --repeats=200 \
	  --output=results/benchmark-gpu $(ARGS)

test: $(DEV) ## the tests that take seconds each, a file at a time on two processes
	@$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

test-slow: $(DEV) ## the tests that take minutes
	@$(PY) -m pytest -n 2 --dist loadfile -m slow $(ARGS)

test-nans: $(DEV) ## the quick tests, stopping at the first NaN that any computation makes
	@JAX_DEBUG_NANS=1 $(PY) -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(DEV) ## style, formatting, types and the direction of imports
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports

format: $(DEV) ## put the code into the style that `make lint` asks for
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

docs: $(RUNTIME) ## the API reference and the pictures of the concepts, drawn anew
	@$(PY) docs/generate_api.py
	@$(PY) docs/figures/draw.py

wheel-check: $(RUNTIME) ## build the wheel, install it into an empty environment, try it there
	@$(PY) tools/check_wheel.py $(ARGS)

image-check: $(RUNTIME) ## the Dockerfile's steps without a container engine, all but apt-get
	@$(PY) tools/run_image_steps.py --skip_apt $(ARGS)

clean: ## remove builds and caches; environment and results stay
	@rm -rf build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find specmpc_jax converters experiments tests -name __pycache__ -prune -exec rm -rf {} +

$(RUNTIME): requirements.txt pyproject.toml
	$(call install,)
	@touch $@

$(DEV): requirements.txt pyproject.toml
	$(call install,[dev])
	@touch $(RUNTIME) $@
