# The two commands of the README, and a few for daily work.

FILE ?= examples/hello.py
ARGS ?=
TESTS ?= tests

.PHONY: run test images lint bench clean

run: ## run FILE in a machine of its own, after installing and making what is missing
	@.ci/setup run
	@.venv/bin/vmm-run --verbose $(FILE) -- $(ARGS)

test: images ## pass all tests
	@.venv/bin/python -m pytest $(TESTS)

images: ## make the images of all languages
	@.ci/setup test
	@.venv/bin/slipway image build all

lint:
	@.ci/setup test
	@.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy

bench: ## measure, side by side
	@.ci/setup test
	@.venv/bin/python bench/boot.py
	@.venv/bin/python bench/startup.py
	@.venv/bin/python bench/throughput.py

clean: ## remove what was set up here; the image store stays (slipway image prune)
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
