# Every target sets up what it needs by itself, inside this folder: packages in .venv, the Claude CLIs in .cache.
# What the machine must have: python3 (3.11 or newer), git, node with npm, make.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The versions of Claude Code the tests run against, oldest first. The demo uses the newest.
CLAUDE_VERSIONS := 2.1.197 2.1.330

PYTHON ?=
export PYTHON
# Tests start hundreds of Pythons: none should have to compile what another one did.
unexport PYTHONDONTWRITEBYTECODE
ARGS ?=
# Tests at a time: most of them wait for real programs, so more than a small machine has cores.
JOBS ?= 4

claude_of = .cache/claude/$(1)/claude
CLAUDES := $(foreach version,$(CLAUDE_VERSIONS),$(call claude_of,$(version)))
NEWEST_CLAUDE := $(lastword $(CLAUDES))

HOUSE := pyproject.toml .ci/constraints.txt .ci/setup-venv .ci/find-python
RUNTIME := .venv/.runtime-ready
DEV := .venv/.dev-ready

# Runs pytest with everything the tests ask for; the browser is found or installed first.
colon_separated = $$(printf '$(CURDIR)/%s\n' $(1) | paste -s -d : -)
pytest = set -e; \
	CLAUDEDO_TEST_CHROMIUM=$$(.ci/find-chromium); \
	CLAUDEDO_TEST_CLAUDES="$(call colon_separated,$(CLAUDES))"; \
	export CLAUDEDO_TEST_CHROMIUM CLAUDEDO_TEST_CLAUDES; \
	.venv/bin/python -m pytest

.PHONY: help
help: ## Say what there is (this text)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'PYTHON=/path/to/python3 chooses the Python (after make clean); ARGS=... is passed on by demo, test, chaos and bench.'

.PHONY: demo
demo: $(RUNTIME) $(NEWEST_CLAUDE) ## See two linked sessions work together, no account needed
	@CLAUDEDO_CLAUDE="$(CURDIR)/$(NEWEST_CLAUDE)" .venv/bin/claudedo demo $(ARGS)

.PHONY: test
test: $(DEV) $(CLAUDES) ## Run the tests against the real Claude CLI, old and new, and a real browser
	@$(pytest) -n $(JOBS) --dist worksteal -m 'not chaos' --durations=15 $(ARGS)

.PHONY: chaos
chaos: $(DEV) $(CLAUDES) ## Kill processes at random points and see that no message is lost or doubled
	@$(pytest) -m chaos --durations=15 $(ARGS)

.PHONY: bench
bench: $(DEV) $(CLAUDES) ## Measure what `claudedo run` costs over a bare `claude -p`; half an hour, wants a quiet machine
	@CLAUDEDO_TEST_CLAUDES="$(call colon_separated,$(CLAUDES))" .venv/bin/python -m tests.bench.one_shot $(ARGS)

.PHONY: check
check: $(DEV) ## Lint, formatting, types, import directions
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	for script in .ci/find-* .ci/fetch-* .ci/setup-* .ci/pin docs/ci/run.sh; do sh -n "$$script" || exit 1; done
	bash -n .ci/run

.PHONY: fmt
fmt: $(DEV) ## Put the code into the common form
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.PHONY: pins
pins: ## Pin the newest versions that pyproject.toml allows
	.ci/pin

.PHONY: clean
clean: ## Remove everything make made
	rm -rf .venv .cache dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find orchestrator worker hooks webui tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(RUNTIME): $(HOUSE)
	@.ci/setup-venv .venv build
	@touch $@

$(DEV): $(HOUSE)
	@.ci/setup-venv .venv build dev
	@touch $(RUNTIME) $@

$(CLAUDES): .cache/claude/%/claude:
	@.ci/fetch-claude $* $@
