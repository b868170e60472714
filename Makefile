# Each target sets up what it needs: a fresh machine with Python 3.10 or newer and make is enough.
PYTHON ?= python3
.DEFAULT_GOAL := help
.PHONY: help demo benchmark test check test-ray-2.60 test-ray-2.55 test-ray-2.6 format clean

help:
	@echo "make demo       segment synthetic scenes, and draw out/demo/contact_sheet.png"
	@echo "make benchmark  measure this package and its peers on the images in ../shared: out/benchmarks"
	@echo "make test       lint, types, and the tests, on Ray 2.60, 2.55.1 and 2.6.3"
	@echo "make check      lint and types alone"
	@echo "make format     let ruff format the code"
	@echo "make clean      remove the virtual environments"

demo: .venv/ready
	.venv/bin/ray-segformer demo out/demo

benchmark: .venv/ready
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[benchmarks]"
	.venv/bin/python -m benchmarks --output out/benchmarks

# Two processes share the files of tests, each with a Ray of its own; then the two older Rays run side by side.
test: check
	$(MAKE) --no-print-directory test-ray-2.60
	$(MAKE) --no-print-directory -j2 test-ray-2.55 test-ray-2.6

check: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

# Threads that wait for others sleep: tests run side by side, and spinning would take the CPU of those that work.
test-ray-2.60 test-ray-2.55 test-ray-2.6: export OMP_WAIT_POLICY = passive

test-ray-2.60: .venv/ready
	.venv/bin/python -m pytest -n 2 --dist loadfile tests

test-ray-2.55: .venv-ray-2.55/ready
	.venv-ray-2.55/bin/python -m pytest -q --confcutdir=tests/air tests/air

# Ray 2.6.3 has no wheels for Python 3.12 and newer. Name an older one with PYTHON=python3.11.
test-ray-2.6:
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
		$(MAKE) --no-print-directory .venv-ray-2.6/ready && .venv-ray-2.6/bin/python -m pytest -q --confcutdir=tests/air tests/air; \
	else \
		echo "not tested: Ray 2.6.3 needs Python 3.11 or older, PYTHON is $$($(PYTHON) --version)"; \
	fi

format: .venv/ready
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -c constraints.txt -e ".[ray,openvino,dev]"
	touch $@

.venv-ray-2.55/ready: pyproject.toml constraints-ray-2.55.txt
	$(PYTHON) -m venv .venv-ray-2.55
	.venv-ray-2.55/bin/python -m pip install --quiet -c constraints-ray-2.55.txt -e . "ray[data,train]" pytest
	touch $@

# Ray 2.6.3 needs a setuptools older than torch says it wants, so that one comes last.
.venv-ray-2.6/ready: pyproject.toml constraints-ray-2.6.txt
	$(PYTHON) -m venv .venv-ray-2.6
	.venv-ray-2.6/bin/python -m pip install --quiet -c constraints-ray-2.6.txt -e . "ray[air]" accelerate async_timeout datasets pytest
	.venv-ray-2.6/bin/python -m pip install --quiet --no-warn-conflicts "setuptools<70"
	touch $@

clean:
	rm -rf .venv .venv-ray-2.55 .venv-ray-2.6
