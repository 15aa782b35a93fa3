# make demo: set up, train on one digit of MNIST, score the others, say where the report is.
# make test: set up, run all tests.  make lint: formatting, lint and types.  make docs: the site, in site/.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test lint docs
demo: $(VENV)/.demo
	$(RUN) train.py --config configs/mnist.py
	$(RUN) score.py --config configs/mnist.py
	@echo "Open runs/mnist/report.html in a browser: every image with its reconstruction and heatmap."

test: $(VENV)/.dev
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

$(VENV)/.demo: pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -r requirements.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.demo requirements-docs.txt
	$(RUN) -m pip install --quiet -r requirements-docs.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.demo requirements-dev.txt
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	@touch $@
