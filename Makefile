# Each target sets up what it needs: a fresh machine with Python 3.10 or newer and make is enough.
PYTHON ?= python3
# Many versions in constraints.txt need Python 3.11. On 3.10, pip chooses.
CONSTRAINTS = $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" * (sys.version_info >= (3, 11)))')
HAS_RAY_2_6 = $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 12))'
# Python compiles what is imported. Compiling all that is installed takes longer than installing it.
PIP = -m pip install --quiet --no-compile
# Many images of containers set this. Then each process would compile all that it imports, and the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help demo benchmark docs test test-fast check test-ray-2.60 test-ray-2.55 test-ray-2.6 ray-2.6 format clean

help:
	@echo "make demo       segment synthetic scenes, and draw out/demo/contact_sheet.png"
	@echo "make benchmark  measure this package and its peers on the images in ../shared: out/benchmarks"
	@echo "make docs       build the documentation as a site: out/site/index.html"
	@echo "make test       lint, types, documentation and the tests, on Ray 2.60, 2.55.1 and 2.6.3"
	@echo "make test-fast  those that start no Ray and no browser, and take less than a second, for every save"
	@echo "make check      lint and types alone"
	@echo "make format     let ruff format the code"
	@echo "make clean      remove the virtual environments and build folders"

demo: .venv/ready
	.venv/bin/ray-segformer demo out/demo

benchmark: .venv/ready
	.venv/bin/python $(PIP) $(CONSTRAINTS) -e ".[benchmarks]"
	.venv/bin/python -m benchmarks --output out/benchmarks

# Strict: a broken link is an error. `--quiet` would hide warnings from it.
docs: export NO_MKDOCS_2_WARNING = 1
docs: .venv/ready
	.venv/bin/mkdocs build

# Lint, types and documentation first, beside the tests on the two older Rays; then those on Ray 2.60, which take most of the time.
test:
	$(MAKE) --no-print-directory -j3 check docs test-ray-2.55 test-ray-2.6
	$(MAKE) --no-print-directory test-ray-2.60

# For every save: the tests that start no Ray, but for those that take a second or more.
test-fast: .venv/ready
	.venv/bin/python -m pytest -q -n 2 -m "not slow" tests/fast

check: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

# Threads that wait for others sleep: tests run side by side, and spinning would take the CPU of those that work.
test-fast test-ray-2.60 test-ray-2.55 test-ray-2.6: export OMP_WAIT_POLICY = passive
# Ray starts workers with a lower priority than the tests, beside which they would starve.
test-ray-2.60 test-ray-2.55 test-ray-2.6: export RAY_worker_niceness = 0
# Tests are no usage of Ray to be reported, and nobody looks at their metrics. Both take a twentieth of the CPU.
test-ray-2.60 test-ray-2.55 test-ray-2.6: export RAY_USAGE_STATS_ENABLED = 0
test-ray-2.60 test-ray-2.55 test-ray-2.6: export RAY_enable_metrics_collection = 0

# Two processes share the files of tests, each with a Ray of its own. A third takes longer: all lose their caches. The
# longest files come first. `tests/warm` starts Ray's workers with torch and Ray Data imported. A process that ends, such
# as by a test that hangs, is not started again: the same test would end the next.
test-ray-2.60: .venv/ready
	.venv/bin/python tests/warm/run.py -m pytest -n 2 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder \
		--durations 10 tests/kills tests/on_ray/test_*.py tests/on_ray/air tests/fast

test-ray-2.55: .venv-ray-2.55/ready
	.venv-ray-2.55/bin/python tests/warm/run.py -m pytest -q --durations 10 --confcutdir=tests/on_ray/air tests/on_ray/air

# Ray 2.6.3 has no wheels for Python 3.12 and newer. Name an older one with PYTHON=python3.11.
test-ray-2.6: ray-2.6
	@if $(HAS_RAY_2_6); then \
		.venv-ray-2.6/bin/python tests/warm/run.py -m pytest -q --durations 10 --confcutdir=tests/on_ray/air tests/on_ray/air; \
	else \
		echo "not tested: Ray 2.6.3 needs Python 3.11 or older, PYTHON is $$($(PYTHON) --version)"; \
	fi

ray-2.6:
	@if $(HAS_RAY_2_6); then $(MAKE) --no-print-directory .venv-ray-2.6/ready; fi

format: .venv/ready
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) $(CONSTRAINTS) -e ".[ray,openvino,dev]"
	touch $@

# Of the same versions as .venv but for Ray, so the other packages are those of .venv.
.venv-ray-2.55/ready: pyproject.toml constraints-ray-2.55.txt .venv/ready
	$(PYTHON) -m venv .venv-ray-2.55
	printf '%s\n' "$(CURDIR)/$$(echo .venv/lib/python3*/site-packages)" "$(CURDIR)" \
		> $$(echo .venv-ray-2.55/lib/python3*/site-packages)/of_venv.pth
	.venv-ray-2.55/bin/python $(PIP) --no-deps -c constraints-ray-2.55.txt ray
	touch $@

# Ray 2.6.3 needs a setuptools older than torch says it wants, so that one comes last.
.venv-ray-2.6/ready: pyproject.toml constraints-ray-2.6.txt
	$(PYTHON) -m venv .venv-ray-2.6
	.venv-ray-2.6/bin/python $(PIP) -c constraints-ray-2.6.txt -e . "ray[air]" accelerate async_timeout datasets pytest
	.venv-ray-2.6/bin/python $(PIP) --no-warn-conflicts "setuptools<70"
	touch $@

clean:
	rm -rf .venv .venv-ray-2.55 .venv-ray-2.6 build
