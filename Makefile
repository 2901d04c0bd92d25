# Everything runs in .venv, which `make setup` builds; targets that need it set it up themselves.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# compiled modules are kept, whatever the shell says: without them every process compiles torch and Lightning again
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
bin := .venv/bin
installed := .venv/.installed
# what `make setup` installs beside the package: what the tests and the demo need
extras := dev,demo,joblib,onnx,parquet,ray,ray-launcher,slurm,text

# a new folder each time, so that runs never collide
run := outputs/demo/$(shell date +%Y-%m-%d_%H-%M-%S)
# SMOKE=1: the same path in about a minute, for checks
SMOKE ?=
demo_data := data=photo_sift
demo_train := model=qinco2_tiny trainer.max_epochs=3
demo_search := beam_size=48 candidate_budget=96
# the same with lists, and an index to search
demo_lists := 256
demo_ivf := model=qinco2_tiny trainer.max_epochs=2
demo_index := num_training=50000
demo_points := nprobe=[2,8,32] ef_search=[64] num_additive=[30,100] num_pairwise=[30,0] recall_at=[1,10] 'baselines=[ivf_pq,ivf_rq]'
ifneq ($(SMOKE),)
demo_data += data.num_train=4000 data.num_val=500 data.num_database=2000 data.num_queries=100
demo_train += model.num_steps=4 trainer.max_epochs=1
demo_lists := 32
demo_ivf += model.num_steps=4 trainer.max_epochs=1
endif

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(installed) ## build .venv with the exact versions of constraints.txt

$(installed): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: on Debian run  apt install python3-venv" >&2; exit 1; }
	@test -x $(bin)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few minutes the first time)"
	@PYTHONWARNINGS=ignore $(bin)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(extras)]'
	@touch $@

.PHONY: demo
demo: $(installed) ## train QINCo2 on real SIFT vectors, compare it with PQ and RQ, search an index (some 10 minutes on 2 cores)
	@$(bin)/qinco train $(demo_data) $(demo_train) hydra.run.dir=$(run)/train
	@$(bin)/qinco evaluate codec=$(run)/train/codec $(demo_data) $(demo_search) 'baselines=[pq,rq]' hydra.run.dir=$(run)/evaluate
	@$(bin)/qinco centroids $(demo_data) num_lists=$(demo_lists) output=$(run)/centroids.npy
	@$(bin)/qinco train $(demo_data) $(demo_ivf) coarse=ivf coarse.centroids=$(run)/centroids.npy hydra.run.dir=$(run)/train_ivf
	@$(bin)/qinco encode codec=$(run)/train_ivf/codec $(demo_data) output=$(run)/codes.h5
	@$(bin)/qinco index codec=$(run)/train_ivf/codec codes=$(run)/codes.h5 $(demo_data) output=$(run)/index $(demo_index)
	@$(bin)/qinco search index=$(run)/index $(demo_data) $(demo_points) hydra.run.dir=$(run)/search
	@echo "plots: $(run)/evaluate/rate_distortion.png $(run)/search/search.png"
	@echo "run folder: $(run)"

# of reproduce-iclr: which experiments (conf/scale), and of them only these: ONLY=main,8B
SCALE ?= smoke
ONLY ?=

.PHONY: reproduce-iclr
reproduce-iclr: $(installed) ## run the papers' experiments, SCALE=paper|small|smoke ONLY=main,8B, and report ours next to theirs
	@$(bin)/qinco reproduce scale=$(SCALE) 'only=[$(ONLY)]'

# of sweep: a file of sweeps/, options for all its jobs, and the folder of an earlier one to go on with
NAME ?=
ARGS ?=
SWEEP_DIR ?= multirun/train/$(NAME)_$(shell date +%Y-%m-%d_%H-%M-%S)
sweep_dir := $(SWEEP_DIR)

.PHONY: sweep
sweep: $(installed) ## run the jobs of sweeps/NAME.yaml and compare them: NAME=beam ARGS='data=bigann'
	@test -n "$(NAME)" -a -f "sweeps/$(NAME).yaml" || { echo "make sweep NAME=...: choose from" $(basename $(notdir $(wildcard sweeps/*.yaml))) >&2; exit 1; }
	@status=0; $(bin)/python train.py -cd sweeps -cn $(NAME) hydra.sweep.dir=$(sweep_dir) $(ARGS) || status=$$?; \
	if test -d "$(sweep_dir)"; then $(bin)/qinco compare $(sweep_dir); fi; exit $$status

# of test: how many processes share the tests (0: one runs them all), and which tests
WORKERS ?= auto
TESTS ?=

.PHONY: test
test: $(installed) ## run the tests, on all cores
	@$(bin)/pytest -q -n $(WORKERS) --maxprocesses 8 --dist worksteal $(TESTS)

# test-floors: some of every room; without the annotations' checks, whose pytest plugin is of newer versions, and with
# warnings, which old packages give under newer ones that they need
QUICK := tests/cli/test_jobs.py tests/vectors/test_vectors_read.py tests/codec/test_codec.py tests/codec/test_onnx.py \
  tests/training/test_train_command.py tests/search/test_searcher.py tests/evaluate/test_baselines.py tests/test_floor.py

.PHONY: test-floors
test-floors: ## run quick tests with the oldest versions that pyproject.toml allows (torch: that of constraints.txt), in .venv-floors
	@test -x .venv-floors/bin/python || $(PYTHON) -m venv .venv-floors
	@$(PYTHON) .ci/floors.py > .venv-floors/constraints.txt
	@PYTHONWARNINGS=ignore .venv-floors/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-floors/constraints.txt -e '.[$(extras)]'
	@.venv-floors/bin/pytest -q -o addopts='--import-mode=importlib --strict-markers' -o filterwarnings=default -W ignore $(QUICK)

.PHONY: lint
lint: $(installed) ## ruff, mypy and the import contracts
	@$(bin)/ruff check
	@$(bin)/ruff format --check
	@$(bin)/mypy
	@$(bin)/lint-imports --no-cache --no-logo

$(bin)/mkdocs: $(installed)
	@PYTHONWARNINGS=ignore $(bin)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

.PHONY: docs
docs: $(bin)/mkdocs ## build the site of docs/ into outputs/docs; what leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --quiet
	@echo "outputs/docs/index.html"

.PHONY: bench
bench: $(installed) ## run the benchmarks but that of a GPU, one after the other
	@for script in $$(grep -l __main__ benchmarks/*.py | grep -v /gpu.py); do echo "== $$script"; $(bin)/python "$$script"; done

.PHONY: gpu
gpu: $(installed) ## on a machine with a GPU: its tests, then its speeds and profiles (8 minutes)
	@$(bin)/python -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || { echo "make gpu: torch sees no CUDA device here" >&2; exit 2; }
	@status=0; $(bin)/pytest -q -m gpu tests/gpu || status=$$?; $(bin)/python benchmarks/gpu.py; exit $$status

.PHONY: clean
clean: ## remove what tools leave behind; keeps .venv*, data/ and outputs/
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find src datamodules tests benchmarks conf -name __pycache__ -prune -exec rm -rf {} +
