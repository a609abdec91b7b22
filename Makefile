# The habits of the project; `make` lists them. Each target installs what it lacks, which takes root.
#
#   make integration BACKEND=qemu           another kernel (auto, host, uml, qemu: docs/testing.md)
#   make unit ARGS='-k drain'               arguments for pytest; a target by itself, since not all take the same
#   make bench ARGS=change                  which benchmarks: start, change, rolling, audit, idle, status, kube-proxy, vips, scheduler_changes
#   make bench ARGS='start --size 5000x50'  of which size
#   make bench BENCH_TIMEOUT=600            how long they may take, in seconds

BACKEND ?= auto
ARGS ?=
# Seconds after which a machine is hung.
TIMEOUT ?= 1800
# For benchmarks, most of which is waiting for kube-proxy.
BENCH_TIMEOUT ?= 7200

PYTHON := .venv/bin/python
IN_MACHINE = $(PYTHON) -m tools.vm --backend $(BACKEND) --timeout $(TIMEOUT) --env CI --
# Progress is shown where a person sees it, which the machine cannot tell.
MEASURE = IPVS_AGENT_TERMINAL=$$(test -t 2 && echo yes) $(PYTHON) -m tests.kube run --backend $(BACKEND) \
	--timeout $(BENCH_TIMEOUT) --memory 4G --env CI --env IPVS_AGENT_TERMINAL --

.DEFAULT_GOAL := help
.PHONY: help demo test unit integration kube conformance nightly launcher lint bench bench-full plots machine clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14
	@echo 'BACKEND=auto|host|uml|qemu chooses the machine (docs/testing.md).'
	@echo 'ARGS=... goes to pytest or the benchmarks, with one target at a time.'

demo: machine ## see the agent at work in a machine of its own
	$(IN_MACHINE) $(PYTHON) -m tools.demo

test: unit integration kube ## run all tests of the agent

unit: .venv/stamp ## run the tests that need no kernel
	$(PYTHON) -m pytest tests/unit $(ARGS)

integration: machine ## run the tests on a real kernel, in a machine of its own
	$(IN_MACHINE) $(PYTHON) -m pytest tests/integration $(ARGS)

kube: machine ## run the tests against a real kube-apiserver, built at the first time (4 minutes)
	@tools/install kube
	$(PYTHON) -m tests.kube build
	$(PYTHON) -m pytest tests/kube $(ARGS)
	$(PYTHON) -m tests.kube run --backend $(BACKEND) --timeout $(TIMEOUT) --env CI -- \
		$(PYTHON) -m pytest tests/e2e $(ARGS)

conformance: machine ## compare with the real kube-proxy; SEED=n CASES=n or CASE=n for random cases alone
	@tools/install kube
	$(PYTHON) -m tests.kube build
	$(PYTHON) -m tests.kube run --backend $(BACKEND) --timeout $(TIMEOUT) --env CI -- $(PYTHON) -m pytest \
		-s tests/conformance$(if $(SEED),/test_random.py --seed $(SEED)) $(if $(CASES),--cases $(CASES)) \
		$(foreach number,$(CASE),--case $(number)) $(ARGS)

nightly: ## run what takes too long for each change: all integration tests on an emulated machine
	$(MAKE) integration BACKEND=qemu TIMEOUT=28800

launcher: machine ## test tools/vm, which gives the others their kernel
	$(PYTHON) -m pytest tests/vm --backend $$($(PYTHON) -m tools.vm --backend $(BACKEND) --which) $(ARGS)

lint: .venv/stamp ## check style and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

bench: machine ## measure beside the real kube-proxy, in a machine of its own (an hour)
	@tools/install kube
	$(PYTHON) -m tests.kube build
	$(MEASURE) $(PYTHON) -m benchmarks $(ARGS)

bench-full: ## measure at the largest sizes, and many agents on one API server (hours)
	@# All of them, though one misses a goal.
	status=0; \
	$(MAKE) bench ARGS=--full BENCH_TIMEOUT=43200 || status=1; \
	$(PYTHON) -m benchmarks.scale || status=1; \
	$(PYTHON) -m benchmarks.scale --agents 20 --size 10000x10 || status=1; \
	exit $$status

plots: .venv/stamp ## draw what was measured; ARGS='FILE --to FOLDER' for other figures than those of the docs
	.venv/bin/pip install --quiet --config-settings editable_mode=compat -e '.[bench]'
	$(PYTHON) -m benchmarks.plots $(ARGS)

clean: ## remove what the targets made
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The choice of a backend looks at the kernel with programs of the first line.
machine: .venv/stamp
	@tools/install agent lab
	@tools/install $$($(PYTHON) -m tools.vm --backend $(BACKEND) --which)

.venv/stamp: setup.cfg pyproject.toml constraints.txt
	@tools/install venv
	@touch $@
