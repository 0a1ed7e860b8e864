# Each target sets up .venv by itself when it is missing or older than requirements.lock.
#   make PYTHON=python3.12 test     with another interpreter
#   make demo IMAGES=folder         on pictures of your own
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test test-code test-notebooks lab lint bench bench-models bench-observe bench-trust peers model-card figures zoo contract browser lock environment clean distclean

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(firstword $(wildcard $(BIN)/python) python3)
# One stamp for each interpreter version: another PYTHON= makes the environment anew.
STAMP := $(VENV)/made-with-$(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1|\2/' | column -t -s '|'

$(STAMP): requirements.lock pyproject.toml .ci/make-venv
	@.ci/make-venv "$(PYTHON)" "$(VENV)"
	@rm -f $(VENV)/made-with-* && touch $@

demo: $(STAMP) ## run, deploy, call, load-test and plot the sample pipeline; the report is build/demo/report.html
	$(BIN)/python -m tools.demo $(if $(IMAGES),--images "$(IMAGES)")

# pytest compiles its rewritten assertions anew in each process that may not keep them.
export PYTHONDONTWRITEBYTECODE :=

# One after the other: a node of Ray has 30 s to start, which is too short beside other work.
test: $(STAMP) ## the tests, then the notebooks
	@status=0; \
	for kind in plain timing ray notebooks; do $(MAKE) --no-print-directory test-$$kind || status=1; done; \
	exit $$status

# Plugins that these tests do not use take seconds to import.
PYTEST := $(BIN)/pytest -p no:nbval -p no:schemathesis
# Collecting all tests takes half a minute: only the files with such marks are collected for them.
marked = $(or $(TESTS),$(shell grep -rlE 'mark\.$(1)\b' tests --include='test_*.py'))
# A test that fails is run once more: many start processes, and a shared machine pauses at times.
# Status 5: no test was selected.
define tested
	@$(1) || { status=$$?; [ $$status = 5 ] || { \
	  [ $$status = 1 ] && echo "== once more, what has failed ==" && \
	  $(1) --last-failed --last-failed-no-failures=none; }; }
endef
WORKERS := 2

test-code: $(STAMP) ## the tests alone, without a browser; TESTS=tests/define narrows them
	@status=0; \
	for kind in plain timing ray; do $(MAKE) --no-print-directory test-$$kind || status=1; done; \
	exit $$status

.PHONY: test-plain test-timing test-ray
test-plain: $(STAMP)
	$(call tested,$(PYTEST) -n $(WORKERS) --dist loadfile -m "not (serve or timing or browser)" $(TESTS))

test-timing: $(STAMP)
	$(call tested,$(PYTEST) -m "timing and not browser" $(call marked,timing))

test-ray: $(STAMP)
	$(call tested,$(PYTEST) -m "serve and not browser" $(call marked,serve))

# A cell has its own limit inside the notebook's kernel; the outer one only ends what hangs.
test-notebooks: $(STAMP) ## the notebooks alone, their outputs compared
	@$(BIN)/python -m pytest -p no:schemathesis -p tests.notebooks --nbval --nbval-current-env --nbval-cell-timeout=240 --timeout=300 \
		$(if $(wildcard notebooks/sanitize.cfg),--nbval-sanitize-with=notebooks/sanitize.cfg) \
		$(or $(NOTEBOOKS),notebooks)

lab: $(STAMP) ## JupyterLab on the notebooks; LAB_FLAGS="--no-browser --port=8899" are passed on
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks $(LAB_FLAGS)

lint: $(STAMP) ## ruff, its format and mypy
	@status=0; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	$(BIN)/mypy || status=1; \
	$(BIN)/mypy tests/define/typed.py || status=1; \
	exit $$status

bench: $(STAMP) ## measure what is claimed about speed
	$(BIN)/python -m benchmarks $(BENCH)

bench-models: $(STAMP) ## measure optimising and loading of models; PHOTOS=folder of 700 photos; build/bench/models.json
	$(BIN)/python -m benchmarks models $(if $(PHOTOS),--photos "$(PHOTOS)")

bench-observe: $(STAMP) ## measure what counting, a live view and autoscaling cost and do; build/bench/observe.json
	$(BIN)/python -m benchmarks observe

bench-trust: $(STAMP) ## measure what redeployments, faults and overload do to clients; build/bench/trust.json
	$(BIN)/python -m benchmarks trust

peers: $(STAMP) ## measure the tagging pipeline on other servers, by turns (QUICK=1: fewer servers, one round); build/bench/peers.json; PHOTOS=folder
	$(BIN)/python -m benchmarks peers $(if $(QUICK),--quick) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(PHOTOS),--photos "$(PHOTOS)")

model-card: $(STAMP) ## train heads on PHOTOS=folder, measure them and the tags (half an hour), and write docs/model-card.md
	$(BIN)/python -m tools.train "$(PHOTOS)" --ablations
	$(BIN)/python -m tools.evaluate "$(PHOTOS)"

figures: $(STAMP) ## put what was measured last into README and docs
	$(BIN)/python -m tools.figures --update

zoo: $(STAMP) ## every type on every way into a pipeline and out of it; TYPES="Decimal UUID" narrows it
	$(BIN)/python -m tests.zoo $(TYPES)

contract: $(STAMP) ## 5,000 generated requests to pipelines of many types, against /openapi.json
	$(BIN)/python -m tests.zoo.contract

browser: $(STAMP) ## the tests that drive a browser; installs Chromium for them (Debian and its kin); screenshots in build/browser/
	.ci/install-browser
	$(BIN)/pytest -m browser

lock: ## write requirements.lock; UPGRADE=1 takes the newest of everything
	.ci/lock "$(PYTHON)"

environment: ## write environment.yml, for conda
	$(PYTHON) .ci/environment_yml.py > environment.yml.new && mv environment.yml.new environment.yml

clean: ## remove what was built and cached
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find mlkit tests notebooks -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## the environment too
	rm -rf $(VENV)
