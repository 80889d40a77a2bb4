# The project's commands; `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

# `make clean` would remove a folder for each word.
ifneq ($(words $(VENV)),1)
$(error VENV=$(VENV): give the name of one folder, without a blank in it)
endif

# One thread per rank: several ranks share the cores of one machine.
train test quick mutants reproduce: export OMP_NUM_THREADS = 1
# Hundreds of ranks start: they read what is compiled, even where the caller wants nothing written.
test quick: export PYTHONDONTWRITEBYTECODE =

train: SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help env extras train test quick mutants benchmark benchmark-quick gpu reproduce docs lint format clean

help:    ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env:     ## build .venv: PyTorch, MPI, Horovod (about ten minutes the first time, a second afterwards)
	@$(PYTHON) hpc_localsgd/environment/build.py --venv $(VENV)

# Where not all can be had, one after the other: it is said which not, and the tests of those skip.
EXTRAS = tensorboard wandb mlflow-skinny accelerate lightning transformers
extras: env  ## also install what some tests try out: loggers of curves, trainers (a minute)
	@add() { $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$@"; }; \
	add $(EXTRAS) && exit; missing=; \
	for each in $(EXTRAS); do add $$each || missing="$$missing $$each"; done; \
	test -z "$$missing" || { echo "not installed, their tests skip:$$missing"; exit 1; }

train: env  ## train four Horovod workers with Post-local SGD on real data
	@# Horovod tags every line with the rank that wrote it; only one writes here.
	@set -o pipefail; $(BIN)/horovodrun -np 4 $(BIN)/python -m hpc_localsgd.train \
	    --out runs/digits --overwrite 2>&1 | sed -u -E 's/^\[[0-9,]+\]<std[a-z]+>: ?//'

# Two workers start ranks, which mostly wait; one computes meanwhile: see tests/groups.py.
test: env  ## run every test, those under MPI and Horovod included
	$(BIN)/python -m pytest tests -n 3 --dist loadgroup --no-loadscope-reorder \
	    --durations=10 --durations-min=5

# Left out: tests that start ranks, and those marked `slow`, which take most of the time (`-m slow`).
quick: env  ## run the quick tests, which start no ranks: an answer in two minutes
	$(BIN)/python -m pytest tests -n auto --dist worksteal -m "not launched and not slow"

# cosmic-ray makes the faults. It is installed beside the environment, the first time it is needed.
mutants: env  ## put small faults into the code, one at a time: do tests notice? (hours; ARGS="--sample 30")
	@test -d build/mutants/cosmic_ray || $(BIN)/python -m pip install --quiet --target build/mutants \
	    -r tests/mutants/requirements.txt
	$(BIN)/python tests/mutants $(ARGS)

# What is complete is kept: remove runs/frontier to have it done anew.
benchmark-quick: env  ## accuracy against communication on two networks; steps beside the alternatives (ten minutes)
	$(BIN)/python benchmarks/comm_vs_accuracy.py benchmarks/frontier/quick.yaml \
	    --networks 1GbE 10GbE --jobs 2 --report
	$(BIN)/python benchmarks/comm_vs_accuracy.py benchmarks/frontier/emulated.yaml \
	    --emulated 100mbit 1gbit --report comm_vs_accuracy_emulated
	$(BIN)/python benchmarks/alternatives.py --subjects mlp --mean-ranks 2 --rounds 5 \
	    --name alternatives_quick

benchmark: env  ## the same with a convolutional net on all of Fashion-MNIST, five seeds (hours)
	$(BIN)/python benchmarks/comm_vs_accuracy.py benchmarks/frontier/full.yaml \
	    --networks 1GbE 10GbE 100GbE --jobs 2

# On a machine of one's own Python: GPU needs torch, numpy, h5py, jsonargparse and pyyaml, no build.
gpu:     ## what one GPU shows, in ten minutes: speed, bits, memory (PYTHON=python3: with torch)
	$(PYTHON) benchmarks/gpu.py $(ARGS)

# Complete runs are kept in runs/reproduce. ARGS="--quick" tries everything out; --only slow_sde ...
reproduce: env  ## the papers' claims: runs, verdicts, figures, the report (under an hour on two cores)
	$(BIN)/python benchmarks/reproduce $(ARGS)

# Nothing of the package is imported: the site is made of files and docstrings.
docs: build/docs/installed  ## write the site to build/site; links are checked, nothing is loaded from elsewhere
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict --quiet

build/docs/installed: docs/site/requirements.txt
	@$(PYTHON) -m venv --clear build/docs
	build/docs/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

lint: env  ## check style and types (ruff, mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hpc_localsgd

format: env  ## put the code into the house format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

clean:   ## remove the environment and every cache; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
