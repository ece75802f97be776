# The commands of the project. `make` alone lists them.
#   PYTHON=python3.12   the interpreter that a new virtual environment gets
#   ARGS="…"            options passed on by run, notebooks, lab and test (there: to pytest)
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
# What `make test-long` tries; the same list stands in .github/workflows/test.yml.
PYTHONS ?= 3.10 3.11 3.12 3.13

# Without TensorFlow's start-up notes, which bury what the commands print: at 2 a machine without an accelerator still hears of it.
export TF_CPP_MIN_LOG_LEVEL ?= 3
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help run test test-long two-workers export notebooks lab site quarto address audit clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## install into .venv, then train, attack, defend, and report
	$(BIN)/apr-tutorial run --dataset auto $(ARGS)

# What XLA has compiled is kept for the processes of one command, most of which train the same shapes; no bit depends on it.
KEEP_COMPILED = compiled=$$(mktemp -d); trap 'rm -rf "$$compiled"' EXIT; trap 'exit 143' INT TERM; \
	  export TF_XLA_FLAGS="$$TF_XLA_FLAGS --tf_xla_persistent_cache_directory=$$compiled";

# Two at a time, each with one thread: more would only be in each other's way, and no bit depends on them. What a module's tests
# share is made once, so a module stays with a process, and the long ones, by chance of their names, come early. pytest's last line,
# which counts the tests, is the last of all, unless a notebook failed.
test: $(VENV)/.installed-dev ## what CI runs: export check, notebooks, tests
	$(BIN)/python tools/check_export.py
	@$(KEEP_COMPILED) said="$$compiled/notebooks.txt"; export TF_NUM_INTRAOP_THREADS=1 OMP_NUM_THREADS=1; \
	  echo "The notebooks, two at a time: some minutes."; \
	  $(BIN)/nbdev_test --n_workers 2 >"$$said" 2>&1; notebooks=$$?; \
	  $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder $(ARGS); tests=$$?; \
	  [ $$notebooks = 0 ] || { cat "$$said"; echo "NOTEBOOKS FAILED: see above."; exit 1; }; \
	  exit $$tests

test-long: $(VENV)/.installed-dev ## make test on every Python that is present, then the long tests
	@for version in $(PYTHONS); do \
	  for python in python$$version $$HOME/.pyenv/versions/$$version*/bin/python; do \
	    $$python -c '' 2>/dev/null && break; \
	    python=; \
	  done; \
	  if [ -z "$$python" ]; then echo "Python $$version: SKIPPED, not present"; continue; fi; \
	  echo "Python $$version: $$python"; \
	  $(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv-$$version ARGS= || exit; \
	done
	$(BIN)/python -m pytest --long -m long $(ARGS)

two-workers: $(VENV)/.installed ## train with two local processes, and compare with one
	$(BIN)/python tools/two_workers.py $(ARGS)

export: $(VENV)/.installed-dev ## write apr_tutorial/ from the notebooks, and clean them
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

notebooks: $(VENV)/.installed-dev ## run the notebooks in place on movielens-500
	@$(KEEP_COMPILED) $(BIN)/python tools/run_notebooks.py $(ARGS)

# Jupyter refuses to run as root, which in a container is who one is.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

lab: $(VENV)/.installed-dev ## open the notebooks in JupyterLab
	@$(KEEP_COMPILED) $(BIN)/jupyter lab $(AS_ROOT) $(ARGS) nbs/index.ipynb

site: quarto $(VENV)/.installed-dev ## render the website into _docs/ (needs Quarto)
	$(BIN)/nbdev_docs

# Left to itself nbdev_docs would try to install Quarto, as root.
quarto:
	@command -v quarto >/dev/null || { echo "Quarto is missing: install version 1.7.34 from https://quarto.org/docs/download/, then try again." >&2; exit 1; }

# The address also stands in what nbdev_export writes.
address: $(VENV)/.installed-dev ## after a change of user or repo in settings.ini: rewrite what is derived from them
	$(BIN)/python tools/address.py
	$(BIN)/nbdev_export

# --strict: a package that could not be looked up fails the audit instead of passing it. The versions are listed all the same.
audit: $(VENV)/.installed-dev ## list what is installed, and ask PyPI for its known vulnerabilities
	@$(BIN)/python -m venv $(VENV)/pip-audit && $(VENV)/pip-audit/bin/pip install -q 'pip-audit>=2.7'
	@$(BIN)/pip freeze --exclude-editable | tee $(VENV)/versions.txt
	$(VENV)/pip-audit/bin/pip-audit --strict --no-deps --disable-pip -r $(VENV)/versions.txt

clean: ## remove what the commands wrote, runs/ and the virtual environments excepted
	rm -rf _docs _proc build dist *.egg-info .pytest_cache .hypothesis .coverage htmlcov nbs/nbdev.yml
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# pip runs again only when what it reads has changed: otherwise no command needs the network.
INSTALLED_FROM := settings.ini setup.py pyproject.toml

$(VENV)/.installed: $(INSTALLED_FROM) | $(BIN)/pip
	@[ -e $(VENV)/.installed-dev ] || echo "Installing into $(VENV). TensorFlow is large: this takes a few minutes the first time."
	$(BIN)/pip install -q -e .
	@touch $@

# cffconvert has an environment of its own: it insists on a jsonschema that is too old for the others.
$(VENV)/.installed-dev: $(INSTALLED_FROM) | $(BIN)/pip
	@echo "Installing into $(VENV) with what the tests need: this takes a few minutes the first time."
	$(BIN)/pip install -q -e '.[dev]'
	@$(BIN)/python -m venv $(VENV)/cffconvert && $(VENV)/cffconvert/bin/pip install -q 'cffconvert>=2' || echo "cffconvert could not be installed: its test will be skipped."
	@touch $(VENV)/.installed $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed, and this is %d.%d. Name another: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
