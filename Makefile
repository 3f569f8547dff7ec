# Every target is one short command that also works by itself; the README lists them.
# `make help` says what each does. Written for GNU make 3.81, which macOS still ships.

VENV := .venv
# Windows (Git Bash) keeps the programs of a virtual environment elsewhere.
PYTHON := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts/python.exe,bin/python)
READY := $(VENV)/.ready
PEERS_READY := $(VENV)/.ready-bench
JUPYTER_READY := $(VENV)/.ready-notebooks

# The Python that makes the environment: the first one here that is new enough.
# To choose another: make BASE_PYTHON=/path/to/python3.12
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
BASE_PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)

# Where `make pins` installs the newest of everything, to write down what that is.
FRESH := build/newest

# make test-naive HARD=1       known flaws are red failures, not expected ones
# make test-naive K=priority   only the tests whose names contain "priority"
SUITE = $(PYTHON) -m pytest tests/suite $(if $(HARD),--hard,--scoreboard) $(if $(K),-k "$(K)")

.PHONY: scoreboard setup test test-naive test-improved test-final typecheck lint format \
	demo-naive demo-improved demo-final diff-improved bench profile notebooks test-notebooks \
	doctor pins clean help

scoreboard: $(READY)  ## What each stage can do, measured (plain make does this)
	@$(PYTHON) -m pytest tests/suite --scoreboard --write-docs

setup: $(READY)  ## Make .venv and install into it (the others do so too)

test: lint typecheck  ## All checks and all tests, under four minutes
	@$(PYTHON) -m pytest tests

test-naive: $(READY)  ## The suite on stage 1 (HARD=1: flaws are red; K=expr)
	@$(SUITE) --stage naive

test-improved: $(READY)  ## The suite on stage 2 (HARD=1, K=expr)
	@$(SUITE) --stage improved

test-final: $(READY)  ## The suite on stage 3 (HARD=1, K=expr)
	@$(SUITE) --stage final

typecheck: $(READY)  ## mypy --strict on all packages and tests
	@$(PYTHON) -m mypy

lint: $(READY)  ## ruff: style, likely mistakes, formatting
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check

format: $(READY)  ## Let ruff fix what it can
	@$(PYTHON) -m ruff check --fix
	@$(PYTHON) -m ruff format

demo-naive: $(READY)  ## Twelve jobs through stage 1: watch it lose some
	@$(PYTHON) -m naive

demo-improved: $(READY)  ## The same jobs through stage 2 (try Ctrl-C)
	@$(PYTHON) -m improved

demo-final: $(READY)  ## The same jobs through stage 3 (kill -9, run it again)
	@$(PYTHON) -m final

diff-improved: $(READY)  ## What stage 2 changed in stage 1, method by method
	@$(PYTHON) -m tests.diff_stages naive improved

bench: $(PEERS_READY)  ## How fast final is beside its peers: 4 minutes (SIZE=full)
	@$(PYTHON) -m tests.benchmarks

profile: $(READY)  ## Where the time of a bulk run goes, thread by thread
	@$(PYTHON) -m tests.benchmarks.profile

notebooks: $(JUPYTER_READY)  ## Open the walkthroughs in Jupyter Lab
	@$(PYTHON) -m jupyterlab notebooks

test-notebooks: $(JUPYTER_READY)  ## Run all walkthroughs, exercises solved: 2 minutes
	@$(PYTHON) -m tests.notebooks --check

doctor:  ## What this machine has, lacks, and how fast it syncs
	@"$(or $(wildcard $(PYTHON)),$(BASE_PYTHON),python3)" -m tests.doctor

pins:  ## Refresh constraints.txt with the newest versions
	@"$(BASE_PYTHON)" -m venv --clear $(FRESH)
	@$(PYTHON:$(VENV)%=$(FRESH)%) -m pip install -qq --upgrade -e '.[dev,examples,bench,notebooks]' colorama
	@grep '^#' constraints.txt > $(FRESH)/pins
	@$(PYTHON:$(VENV)%=$(FRESH)%) -m pip freeze --exclude-editable >> $(FRESH)/pins
	@mv $(FRESH)/pins constraints.txt

clean:  ## Remove all that make, demos and examples made, .venv too
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@rm -rf demo.db* emails.db* webhooks.db* thumbnails.db* *.out *.mailbox .scoreboard.json
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## This list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

# Runs again only when one of these has changed. Installed quietly, but not silently.
$(READY): $(PYTHON) pyproject.toml constraints.txt
	@echo "Installing what the suite needs into $(VENV); once, up to a minute or two ..."
	@$(PYTHON) -m pip install -qq -e '.[dev,examples]' -c constraints.txt
	@touch $@

$(PEERS_READY): $(READY)
	@echo "Installing the peers and matplotlib; once, up to a minute ..."
	@$(PYTHON) -m pip install -qq -e '.[bench]' -c constraints.txt
	@touch $@

$(JUPYTER_READY): $(READY)
	@echo "Installing Jupyter Lab and matplotlib; once, up to a minute or two ..."
	@$(PYTHON) -m pip install -qq -e '.[notebooks]' -c constraints.txt
	@touch $@

$(PYTHON):
	@"$(BASE_PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo "This needs Python 3.11 or newer; $(or $(BASE_PYTHON),python3) here is not. Install one," \
			"or name it: make BASE_PYTHON=/path/to/python3.12"; exit 1; }
	@"$(BASE_PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(BASE_PYTHON) cannot make virtual environments. On Debian and Ubuntu," \
			"'sudo apt install python3-venv' brings what is missing."; exit 1; }
	@"$(BASE_PYTHON)" -m venv --clear $(VENV)

# A recipe that fails half way leaves nothing behind that looks finished.
.DELETE_ON_ERROR:
