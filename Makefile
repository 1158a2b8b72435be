# `make repro` and `make test` set up .venv by themselves. Overridable (`make clean` first, if there is
# a .venv):
#   PYTHON        the interpreter to make .venv with (3.11 or newer)
#   SYSTEM_TORCH  set to 1 to use the torch that is already installed for PYTHON
#   JOBS          how many stages `make repro` and `make studies` run at a time; by default as many as there
#                 are cores and 10 GB of memory for each, the GPU's, too; without a GPU up to 3
#   LAUNCHER      slurm: `make repro` and `make studies` run each stage as a job of a Slurm cluster, as many at
#                 a time as it has room for; scripts/slurm.sbatch says what each needs, docs/clusters.md the rest
#   PRESET        `make repro` puts this preset, a file of presets/, into params.yaml first
#   BUNDLE, PART, WHEELS   of `make bundle`: the folder to make, gigabytes of a part at most, version of Python
#   ARGS          more arguments for the command that `make test`, `make oracle` or `make bench` runs

PYTHON ?= python3
JOBS ?= 0
LAUNCHER ?= local
BUNDLE ?= bundle
PART ?= 2
TORCH_VERSION = $(shell sed -n 's/^torch==//p' requirements.lock)
# Where PyTorch keeps its CPU builds; asked only where there is no NVIDIA driver.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# The command that reproduces $(1).
reproduce_local = python -m scripts.repro $(1) $(JOBS)
reproduce_slurm = python -m scripts.slurm $(1)
reproduce = $(or $(call reproduce_$(LAUNCHER),$(1)),$(error LAUNCHER=$(LAUNCHER): there is local and slurm))

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
export DVC_NO_ANALYTICS = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help repro results studies check preset bundle smoke test fuzz export compare oracle torture soak families bench gpu-check lint format lock clean

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

repro: $(if $(PRESET),preset) check  ## the whole pipeline, from the model to the report; PRESET: a preset's name
	@test -e .git || { echo "error: not a git checkout; DVC needs one: git init" >&2; exit 1; }
	$(call reproduce,report)
	python -m scripts.results_table
	@echo "Done. Open reports/index.html"

results: .venv/installed  ## the README's table anew, from reports/metrics.json
	python -m scripts.results_table

studies: check  ## the same trainings with params varied, from many seeds: hours
	$(call reproduce,studies/dvc.yaml)

check: .venv/installed  ## whether params.yaml is right
	@python -m pipeline.params

preset: .venv/installed  ## the preset PRESET into params.yaml
	@python -m scripts.preset "$(PRESET)"

bundle: .venv/installed  ## what a machine without a network needs, in parts: docs/clusters.md
	TORCH_CPU_INDEX=$(TORCH_CPU_INDEX) python -m scripts.bundle "$(BUNDLE)" "$(PART)" "$(WHEELS)"

smoke: .venv/installed  ## the whole pipeline with a few steps, in a copy: does everything work?
	rm -rf .smoke
	python -m tests.project_copy .smoke $(foreach task,arithmetic trivia word_problems,$(task).train.steps=2 \
		$(task).train.warmup_steps=0 $(task).train.episodes_per_step=16 $(task).data.test=16) \
		trivia.warm_start.steps=2 word_problems.warm_start.steps=2 word_problems.data.unseen=12
	cd .smoke && dvc repro
	@echo "Done. Open .smoke/reports/index.html"

test: .venv/installed  ## all tests, several files at a time; ARGS=-n0 for one after the other
	OMP_NUM_THREADS=1 pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

fuzz: .venv/installed  ## 100,000 hostile transcripts, other ones each time: ten minutes or more
	OMP_NUM_THREADS=1 HOSTILE_EXAMPLES=1600 pytest -s --timeout 0 tests/test_hostile.py $(ARGS)

export: .venv/installed  ## a policy as full weights that transformers loads by itself, from FOLDER to OUT
	@test -n "$(FOLDER)" -a -n "$(OUT)" \
		|| { echo "error: say which: make export FOLDER=data/models/<task>-rl-<seed> OUT=<new folder>" >&2; exit 1; }
	python -m scripts.export "$(FOLDER)" "$(OUT)"

compare: .venv/installed  ## two runs side by side; A and B: revisions, experiments or "workspace"
	@test -n "$(A)" || { echo "error: say which run: make compare A=<revision or experiment>" >&2; exit 1; }
	python -m scripts.compare "$(A)" "$(or $(B),workspace)"

oracle: .venv/installed .venv-oracle/installed  ## what TRL 0.11.4 computes, anew, beside ours
	python -m tests.oracle.write_inputs
	.venv-oracle/bin/python -m tests.oracle.run_trl
	pytest tests/algorithms/ppo/test_oracle.py tests/test_trl.py $(ARGS)

torture: .venv/installed  ## kill a training 200 times, in every way, and compare every byte: hours; ARGS: how often
	rm -rf .torture
	python -m tests.kills .torture $(or $(ARGS),200)

soak: .venv/installed  ## whether a long training and many calls take more and more of the machine
	OMP_NUM_THREADS=1 python -m tests.soak $(ARGS)

families: .venv/installed  ## which models work, and how: docs/models.md anew, ten minutes
	OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error python -m tests.families $(ARGS)

bench: .venv/installed  ## how fast model and tools are; ARGS: a corpus and questions (scripts/bench_search.py)
	dvc repro fetch_model demonstrate@arithmetic
	python -m scripts.bench_model
	python -m scripts.bench_python
	python -m scripts.bench_search $(ARGS)

gpu-check: .venv/installed  ## whether the GPU at hand computes what the CPU does, and how fast
	dvc repro fetch_model build_index demonstrate
	python -m scripts.gpu_check

lint: .venv/installed  ## style, types, and which room may import which
	ruff check .
	ruff format --check .
	mypy
	lint-imports

format: .venv/installed  ## code as ruff would have it
	ruff check --fix .
	ruff format .

lock:  ## resolve the ranges of pyproject.toml anew and pin the outcome in requirements.lock
	rm -rf .venv && $(PYTHON) -m venv .venv
	pip install -q torch==$(TORCH_VERSION) && pip install -q -e '.[dev]'
	pip freeze --exclude learning-tools | sed 's/+cpu$$//' > requirements.lock

clean:  ## everything but the data: the environment and the copies that were tested
	rm -rf .venv .venv-oracle .smoke .torture

.venv/installed: requirements.lock pyproject.toml
ifdef SYSTEM_TORCH
	$(PYTHON) -m venv --system-site-packages .venv
	sed '/^torch==/d' requirements.lock > .venv/requirements.txt
else
	$(PYTHON) -m venv .venv
	cp requirements.lock .venv/requirements.txt
	@echo "installing torch $(TORCH_VERSION) ..."
	nvidia-smi >/dev/null 2>&1 \
		|| pip install -q --no-deps torch==$(TORCH_VERSION)+cpu 2>/dev/null \
		|| pip install -q --no-deps --retries 0 torch==$(TORCH_VERSION)+cpu --extra-index-url $(TORCH_CPU_INDEX) \
		|| echo "no CPU build of torch to be had; taking the default one"
endif
	@echo "installing the pinned dependencies (about two minutes) ..."
	pip install -q -r .venv/requirements.txt
	pip install -q --no-deps -e .
	touch $@

.venv-oracle/installed: tests/oracle/requirements.txt
	rm -rf .venv-oracle && $(PYTHON) -m venv .venv-oracle
	VIRTUAL_ENV= .venv-oracle/bin/pip install -q --no-deps torch==$(TORCH_VERSION)+cpu 2>/dev/null || true
	VIRTUAL_ENV= .venv-oracle/bin/pip install -q -r tests/oracle/requirements.txt
	touch $@
