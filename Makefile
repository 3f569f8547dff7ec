# Every target is one short command that also works by itself; docs/commands.md lists them.
# `make help` says what each does. Written for GNU make 3.81, which macOS still ships.

VENV := .venv
# Windows (Git Bash) keeps the programs of a virtual environment elsewhere.
PYTHON := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts/python.exe,bin/python)
READY := $(VENV)/.ready
PEERS_READY := $(VENV)/.ready-bench
JUPYTER_READY := $(VENV)/.ready-notebooks
DOCS_READY := $(VENV)/.ready-docs
MUTANTS_READY := $(VENV)/.ready-mutants

# The Python that makes the environment: the first one here that is new enough.
# To choose another: make BASE_PYTHON=/path/to/python3.12
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
BASE_PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)

# Where `make pins` installs the newest of everything, to write down what that is.
FRESH := build/newest
ALL := dev,examples,service,bench,notebooks,docs,mutants

# make test-naive HARD=1       known flaws are red failures, not expected ones
# make test-naive K=priority   only the tests whose names contain "priority"
SUITE = $(PYTHON) -m pytest tests/suite $(if $(HARD),--hard,--scoreboard) $(if $(K),-k "$(K)")

.PHONY: scoreboard setup test tests test-naive test-improved test-final typecheck lint format \
	demo-naive demo-improved demo-final diff-improved \
	notebooks run-notebooks test-notebooks interview flashcards docs \
	hunt hunt-hint hunt-check hunt-solution \
	lab-crash lab-power lab-disk lab-race lab-fairness simulate soak mutants \
	serve load bench profile doctor pins clean help

##@ The stages

scoreboard: $(READY)  ## What each stage can do, measured (plain make does this)
	@$(PYTHON) -m pytest tests/suite --scoreboard --write-docs

# Three processes share the tests, so that two cores are busy while one of them waits for a child
# or a clock; mypy runs beside them. `python -m pytest tests` runs one test after the other. A test
# that hangs ends its process and is named: run that one by itself to see the stacks.
test: lint  ## All checks and all tests, under three minutes
	@$(MAKE) --no-print-directory -j2 typecheck tests

tests: $(READY)  ## Only the tests, of make test
	@$(PYTHON) -m pytest -n 3 --dist worksteal tests

test-naive: $(READY)  ## The suite on stage 1 (HARD=1: flaws are red; K=expr)
	@$(SUITE) --stage naive

test-improved: $(READY)  ## The suite on stage 2 (HARD=1, K=expr)
	@$(SUITE) --stage improved

test-final: $(READY)  ## The suite on stage 3 (HARD=1, K=expr)
	@$(SUITE) --stage final

demo-naive: $(READY)  ## Twelve jobs through stage 1: watch it lose some
	@$(PYTHON) -m naive

demo-improved: $(READY)  ## The same jobs through stage 2 (try Ctrl-C)
	@$(PYTHON) -m improved

demo-final: $(READY)  ## The same jobs through stage 3 (kill -9, run it again)
	@$(PYTHON) -m final

diff-improved: $(READY)  ## What stage 2 changed in stage 1, method by method
	@$(PYTHON) -m tests.diff_stages naive improved

##@ To learn

notebooks: $(JUPYTER_READY)  ## Open the walkthroughs in Jupyter Lab
	@$(PYTHON) -m jupyterlab notebooks

test-notebooks: $(JUPYTER_READY)  ## Run all walkthroughs, exercises solved
	@$(PYTHON) -m tests.notebooks --check
	@$(PYTHON) -m pytest -q tests/notebooks

run-notebooks: $(JUPYTER_READY)  ## Run them as they are, and store what they show
	@$(PYTHON) -m tests.notebooks

interview: $(READY)  ## Interview questions in the terminal (TOPIC=overload)
	@$(PYTHON) -m docs.interview $(TOPIC)

flashcards: $(READY)  ## The same as cards for Anki: build/flashcards.csv
	@$(PYTHON) -m docs.interview --flashcards build/flashcards.csv

docs: $(DOCS_READY)  ## The documents as a site with a search: build/site
	@$(PYTHON) -m sphinx -q -W --keep-going -n -b html docs build/site
	@echo "Open build/site/README.html"

##@ To find bugs

hunt: $(READY)  ## A planted bug to find: its story and a copy (BUG=7)
	@$(PYTHON) -m tests.bugs hunt $(BUG)

hunt-hint: $(READY)  ## One more hint for the bug that is hunted; three
	@$(PYTHON) -m tests.bugs hint

hunt-check: $(READY)  ## Is it fixed, and nothing else broken?
	@$(PYTHON) -m tests.bugs check

hunt-solution: $(READY)  ## The fix, and what is to be learned
	@$(PYTHON) -m tests.bugs solution

##@ To break promises

lab-crash: $(READY)  ## Kill processes at every step: what is lost? (KILLS=5000)
	@$(PYTHON) -m tests.labs.crash

lab-power: $(READY)  ## Cut the power at every moment of a run (JOBS=500)
	@$(PYTHON) -m tests.labs.power

lab-disk: $(READY)  ## Let each write and each sync of the disk fail
	@$(PYTHON) -m tests.labs.bad_disk

lab-race: $(READY)  ## Every schedule of a few threads (SWITCHES=2, RACE=word)
	@$(PYTHON) -m tests.labs.races $(RACE)

lab-fairness: $(PEERS_READY)  ## LOW's wait while HIGH never empties (PICKS, FAULT)
	@PICTURES=docs/img $(PYTHON) -m tests.labs.fairness

simulate: $(READY)  ## Random lives of the dispatcher, checked (SEEDS=, SEED=)
	@$(PYTHON) -m tests.labs.simulate

soak: $(READY)  ## Everything at once, with kills (MINUTES=30, SEED, FAULT)
	@$(PYTHON) -m tests.labs.soak

mutants: $(MUTANTS_READY)  ## Changes of final/ that no test notices (FILES=all)
	@$(PYTHON) -m tests.mutants $(FILES)

##@ To run and measure

serve: $(READY)  ## The service and its dashboard, localhost:8080 (PORT=9000)
	@$(PYTHON) -m final serve

load: $(READY)  ## How fast the service takes durable jobs, and too many
	@$(PYTHON) -m tests.load

bench: $(PEERS_READY)  ## How fast final is beside its peers: 4 minutes (SIZE=full)
	@$(PYTHON) -m tests.benchmarks

profile: $(READY)  ## Where the time of a bulk run goes, thread by thread
	@$(PYTHON) -m tests.benchmarks.profile

##@ To work on it

setup: $(READY)  ## Make .venv and install into it (the others do so too)

typecheck: $(READY)  ## mypy --strict on all packages and tests
	@$(PYTHON) -m mypy

lint: $(READY)  ## ruff: style, likely mistakes, formatting
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check

format: $(READY)  ## Let ruff fix what it can
	@$(PYTHON) -m ruff check --fix
	@$(PYTHON) -m ruff format

doctor:  ## What this machine has, lacks, and how fast it syncs
	@"$(or $(wildcard $(PYTHON)),$(BASE_PYTHON),python3)" -m tests.doctor

pins:  ## Refresh constraints.txt with the newest versions
	@"$(BASE_PYTHON)" -m venv --clear $(FRESH)
	@$(PYTHON:$(VENV)%=$(FRESH)%) -m pip install -qq --upgrade -e '.[$(ALL)]' colorama
	@grep '^#' constraints.txt > $(FRESH)/pins
	@$(PYTHON:$(VENV)%=$(FRESH)%) -m pip freeze --exclude-editable >> $(FRESH)/pins
	@mv $(FRESH)/pins constraints.txt

clean:  ## Remove all that make, demos and examples made, .venv too
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@rm -rf demo.db* jobs.db* emails.db* webhooks.db* thumbnails.db* tickets.db* *.out *.mailbox
	@rm -rf .scoreboard.json
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## This list
	@awk -F ':.*  ## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*  ## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

# Runs again only when one of these has changed. Installed quietly, but not silently.
$(READY): $(PYTHON) pyproject.toml constraints.txt
	@echo "Installing what the suite needs into $(VENV); once, up to a minute or two ..."
	@$(PYTHON) -m pip install -qq -e '.[dev,examples,service]' -c constraints.txt
	@touch $@

$(PEERS_READY): $(READY)
	@echo "Installing the peers and matplotlib; once, up to a minute ..."
	@$(PYTHON) -m pip install -qq -e '.[bench]' -c constraints.txt
	@touch $@

$(JUPYTER_READY): $(READY)
	@echo "Installing Jupyter Lab and matplotlib; once, up to a minute or two ..."
	@$(PYTHON) -m pip install -qq -e '.[notebooks]' -c constraints.txt
	@touch $@

$(DOCS_READY): $(READY)
	@echo "Installing Sphinx; once, up to a minute ..."
	@$(PYTHON) -m pip install -qq -e '.[docs]' -c constraints.txt
	@touch $@

$(MUTANTS_READY): $(READY)
	@echo "Installing mutmut; once, up to a minute ..."
	@$(PYTHON) -m pip install -qq -e '.[mutants]' -c constraints.txt
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
