# Every target is one short command that also works by itself; docs/commands.md lists them.
# `make help` says what each does. Written for GNU make 3.81, which macOS still ships.

ifneq ($(realpath $(dir $(lastword $(MAKEFILE_LIST)))),$(realpath .))
$(error Type make in the folder of this Makefile, or make -C $(dir $(lastword $(MAKEFILE_LIST))))
endif

VENV := .venv
# Windows (Git Bash) keeps the programs of a virtual environment elsewhere.
PYTHON := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts/python.exe,bin/python)
READY := $(VENV)/.ready

# The Python that makes the environment: the first one here that is new enough.
# To choose another: make BASE_PYTHON=/path/to/python3.12
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
BASE_PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)

# Images of containers set this, to stay small. Here each of a thousand processes would compile
# again all that it imports.
unexport PYTHONDONTWRITEBYTECODE

# Jupyter wants to be told that it is root who starts it, as in a container.
AS_ROOT = $(if $(filter 0,$(shell id -u 2>/dev/null)),--allow-root)

# Where `make pins` installs the newest of everything, to write down what that is.
FRESH := build/newest
ALL := dev,examples,service,bench,notebooks,docs,mutants

# An option that is on or off: HARD=0 is off, too.
is = $(filter-out 0 no false,$($(1)))

# make test-naive HARD=1       known flaws are red failures, not expected ones
# make test-naive K=priority   only the tests whose names contain "priority"
SUITE = $(PYTHON) -m pytest tests/suite $(if $(call is,HARD),--hard,--scoreboard) $(if $(K),-k "$(K)")
# With --hard this says that all that failed did so on purpose: no news for make.
ON_PURPOSE := 10

LADDER = $(PYTHON) -m tests.ladder
YOURS = $(if $(STEP),--step $(STEP)) $(if $(FILE),--file "$(FILE)")

.PHONY: scoreboard setup test tests test-slow test-naive test-improved test-final test-postgres \
	naive improved final typecheck lint format \
	demo-naive demo-improved demo-final diff-improved \
	mine mine-hint mine-diff mine-card mine-reset steps grade progress ladder \
	notebooks run-notebooks test-notebooks interview flashcards docs \
	hunt hunt-hint hunt-check hunt-solution \
	lab-crash lab-power lab-disk lab-hosts lab-race lab-fairness simulate soak mutants \
	serve load bench profile doctor pins clean help

##@ The stages

scoreboard: $(READY)  ## What each stage can do, measured (plain make does this)
	@$(PYTHON) -m pytest tests/suite --scoreboard --write-docs

# Four processes share the tests, so that two cores are busy while some of them wait for a child
# or a clock; mypy runs beside them. `python -m pytest tests` runs one test after the other. A test
# that hangs ends its process and is named: run that one by itself to see the stacks.
# What takes longest is left to test-slow: whether the labs, the hunt and the ladder notice faults
# that are planted on purpose, and the benchmarks in small.
test: lint  ## All checks, all tests but the slowest: four minutes
	@$(MAKE) --no-print-directory -j2 typecheck tests

tests: $(READY)  ## Only the tests, of make test
	@$(PYTHON) -m pytest -n 4 --dist worksteal -m "not slow" tests

test-slow: $(READY)  ## The slowest: planted faults, labs, benchmarks
	@$(PYTHON) -m pytest -n 4 --dist worksteal -m slow tests

test-naive: $(READY)  ## The suite on stage 1 (HARD=1: flaws are red; K=expr)
	@$(SUITE) --stage naive || [ $$? -eq $(ON_PURPOSE) ]

test-improved: $(READY)  ## The suite on stage 2 (HARD=1, K=expr)
	@$(SUITE) --stage improved || [ $$? -eq $(ON_PURPOSE) ]

test-final: $(READY)  ## The suite on stage 3 (HARD=1, K=expr)
	@$(SUITE) --stage final || [ $$? -eq $(ON_PURPOSE) ]

naive: test-naive  ## Short for make test-naive
improved: test-improved  ## Short for make test-improved
final: test-final  ## Short for make test-final

test-postgres: $(READY)  ## The suite on stage 3 with PostgreSQL (K=expr)
	@$(SUITE) --stage postgres

demo-naive: $(READY)  ## Twelve jobs through stage 1: watch it lose some
	@$(PYTHON) -m naive

demo-improved: $(READY)  ## The same jobs through stage 2 (try Ctrl-C)
	@$(PYTHON) -m improved

demo-final: $(READY)  ## The same jobs through stage 3 (kill -9, run it again)
	@$(PYTHON) -m final

diff-improved: $(READY)  ## What stage 2 changed in stage 1, method by method
	@$(PYTHON) -m tests.diff_stages naive improved

##@ To write your own

mine: $(READY)  ## Your queue, graded step by step (STEP, FILE, WATCH=1)
	@$(LADDER) mine $(YOURS) $(if $(call is,WATCH),--watch)

mine-hint: $(READY)  ## One more hint for the step you are on; three
	@$(LADDER) hint $(YOURS)

mine-diff: $(READY)  ## Yours beside the worked solution (ANYWAY=1)
	@$(LADDER) diff $(YOURS) $(if $(call is,ANYWAY),--anyway)

mine-card: $(READY)  ## Your column beside the stages, to show: build/card.svg
	@$(LADDER) card $(YOURS)

mine-reset: $(READY)  ## Begin anew; what you wrote is kept
	@$(LADDER) reset

steps: $(READY)  ## From a stub to a durable queue in 13 small diffs (STEP=6)
	@$(LADDER) steps $(if $(STEP),--step $(STEP))

progress: $(READY)  ## What you have done here, and the one next thing
	@$(LADDER) progress

grade: $(READY)  ## For teachers: grade a folder of files (DIR=submissions)
	@$(LADDER) grade $(if $(DIR),--dir "$(DIR)")

ladder: $(READY)  ## Is the ladder right? Each step, each bug, in full
	@LADDER=full $(PYTHON) -m pytest -q tests/ladder

##@ To learn

notebooks: $(READY)-notebooks  ## Open the walkthroughs in Jupyter Lab
	@$(PYTHON) -m jupyterlab $(AS_ROOT) notebooks

test-notebooks: $(READY)-notebooks  ## Run all walkthroughs, exercises solved
	@$(PYTHON) -m tests.notebooks --check
	@$(PYTHON) -m pytest -q tests/notebooks

run-notebooks: $(READY)-notebooks  ## Run them as they are, and store what they show
	@$(PYTHON) -m tests.notebooks

interview: $(READY)  ## Interview questions in the terminal (TOPIC=overload)
	@$(PYTHON) -m docs.interview $(TOPIC)

flashcards: $(READY)  ## The same as cards for Anki: build/flashcards.csv
	@$(PYTHON) -m docs.interview --flashcards build/flashcards.csv

docs: $(READY)-docs  ## The documents as a site with a search: build/site
	@$(PYTHON) -m sphinx -q -W --keep-going -n -b html docs build/site
	@echo "Open build/site/README.html"

##@ To find bugs

hunt: $(READY)  ## A planted bug to find, easy ones first (BUG=7, RANDOM=1)
	@$(PYTHON) -m tests.bugs hunt $(BUG) $(if $(call is,RANDOM),--random)

hunt-hint: $(READY)  ## One more hint for the bug that is hunted; three
	@$(PYTHON) -m tests.bugs hint

hunt-check: $(READY)  ## Is it fixed, and nothing else broken? (FULL=1)
	@$(PYTHON) -m tests.bugs check $(if $(call is,FULL),--all)

hunt-solution: $(READY)  ## The fix, and what is to be learned
	@$(PYTHON) -m tests.bugs solution

##@ To break promises

lab-crash: $(READY)  ## Kill processes at every step: what is lost? (KILLS=5000)
	@$(PYTHON) -m tests.labs.crash

lab-power: $(READY)  ## Cut the power at every moment of a run (JOBS=500)
	@$(PYTHON) -m tests.labs.power

lab-disk: $(READY)  ## Let each write and each sync of the disk fail
	@$(PYTHON) -m tests.labs.bad_disk

lab-hosts: $(READY)  ## Kill, stop, cut off processes on PostgreSQL (SECONDS=30)
	@$(PYTHON) -m tests.labs.hosts

lab-race: $(READY)  ## Every schedule of a few threads (SWITCHES=2, EVERY=50)
	@$(PYTHON) -m tests.labs.races $(RACE)

lab-fairness: $(READY)-bench  ## LOW's wait while HIGH never empties (PICKS, FAULT)
	@PICTURES=docs/img $(PYTHON) -m tests.labs.fairness

simulate: $(READY)  ## Random lives of the dispatcher, checked (SEEDS=, SEED=)
	@$(PYTHON) -m tests.labs.simulate

soak: $(READY)  ## Everything at once, with kills (MINUTES=30, SEED, FAULT)
	@$(PYTHON) -m tests.labs.soak

mutants: $(READY)-mutants  ## Changes of final/ that no test notices (FILES=all)
	@$(PYTHON) -m tests.mutants $(FILES)

##@ To run and measure

serve: $(READY)  ## The service and its dashboard, localhost:8080 (PORT=9000)
	@$(PYTHON) -m final serve

load: $(READY)  ## How fast the service takes durable jobs, and too many
	@$(PYTHON) -m tests.load

bench: $(READY)-bench  ## How fast final is beside its peers: 8 minutes (SIZE=full)
	@$(PYTHON) -m tests.benchmarks && $(PYTHON) -m tests.docs

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
	@rm -rf $(VENV) $(VENV).begun $(VENV).lock build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@rm -rf demo.db* jobs.db* emails.db* webhooks.db* thumbnails.db* tickets.db* *.out *.mailbox
	@rm -rf .scoreboard.json
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Eight to begin with, then all the others under their headings.
FIRST := scoreboard mine notebooks hunt interview demo-final serve test
help:  ## This list
	@echo; awk -F ':.*  ## ' -v first=" $(FIRST) " ' \
		NR > FNR && /^##@ / { printf "\nmore: %s\n", tolower(substr($$0, 5)) } \
		/^[a-z-]+:.*  ## / && (NR == FNR) == (index(first, " " $$1 " ") > 0) \
			{ printf "  make %-14s %s\n", $$1, $$2 }' Makefile Makefile

# Each runs again only when one of these files has changed. Installed quietly, but not silently,
# and by one at a time (tests/environment.py).
$(READY): $(PYTHON) pyproject.toml constraints.txt
	@"$(BASE_PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo "This needs Python 3.11 or newer; $(or $(BASE_PYTHON),python3) here is not. Install one," \
			"or name it: make BASE_PYTHON=/path/to/python3.12"; exit 1; }
	@"$(BASE_PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(BASE_PYTHON) cannot make virtual environments. On Debian and Ubuntu," \
			"'sudo apt install python3-venv' brings what is missing."; exit 1; }
	@"$(BASE_PYTHON)" -m tests.environment --into "$(VENV)"

$(READY)-%: $(READY) pyproject.toml constraints.txt
	@"$(BASE_PYTHON)" -m tests.environment --into "$(VENV)" $*

$(PYTHON): ;

# A recipe that fails half way leaves nothing behind that looks finished.
.DELETE_ON_ERROR:
