# The commands of the README, and a few for daily work.

FILE ?= examples/hello.py
ARGS ?=
TESTS ?= tests
# More than cores: the tests wait for programs and clocks a third of their time.
WORKERS ?= 3
# The tests start our programs some thousand times: their modules are to be compiled once.
export PYTHONDONTWRITEBYTECODE =
# A machine that boots takes one core, and its test waits: two at a time.
MACHINES ?= 2
# The tests that need Python alone.
PLAIN = not image and not debian and not vm
PYTEST = .venv/bin/python -m pytest $(TESTS) -m "$(1)"
# TESTS may name tests of one kind only; pytest ends with 5 where it selects none.
OR_NONE = || [ $$? -eq 5 ]
# What runs on real KVM, inside emulation: docs/lab.md. The part that `make test` runs: the bare-metal
# guests that need a KVM like hardware's, the board, the network device, rules and gateways of a
# session and its fork, pip and a browser beyond a gateway, two languages once, each port of the agent
# once, and all behaviours of the language that boots fastest, each in a clone. The other tests of KVM
# run on what KVM there is here; make lab-full has them all.
LAB_TESTS ?= $(foreach part,cgroups coalesced confinement interrupts never_ready vcpu_thread,\
	tests/kvm/test_$(part).py) tests/behaviour/test_processors.py tests/behaviour/test_languages.py \
	tests/behaviour/test_network_device.py::test_frames_of_all_sizes_come_back \
	tests/behaviour/test_network_option.py::test_runs_of_a_session_and_its_fork_share_the_rules \
	tests/behaviour/test_network_session.py \
	--machine kvm --through guest --through clone --through serial --through tcp \
	-k "not test_languages or kvm-clone-bash or \
	(says_hello and (kvm-python or kvm-c] or kvm-serial or kvm-tcp))"
LAB_FULL_TESTS ?= tests/kvm tests/behaviour/test_processors.py tests/behaviour/test_languages.py \
	tests/behaviour/test_hostile.py tests/behaviour/test_clones.py tests/behaviour/test_sessions.py \
	tests/behaviour/test_repeated_boots.py \
	tests/behaviour/test_network.py tests/behaviour/test_network_device.py \
	tests/behaviour/test_network_option.py tests/behaviour/test_network_gateway.py \
	tests/behaviour/test_network_session.py tests/behaviour/test_tcp_port.py \
	tests/integration/test_gateway_process.py \
	--machine kvm --through guest --through clone --through serial --through tcp
# The same on an emulated Arm processor. The part that `make test` runs: interrupts and the start of
# vCPUs by the GIC and PSCI, confinement, the network device, and a language cold and from a clone.
LAB_ARM_TESTS ?= tests/kvm/test_interrupts.py tests/kvm/test_confinement.py tests/kvm/test_network.py \
	tests/behaviour/test_languages.py --machine kvm --through guest --through clone -k "test_interrupts \
	or crash_is_reported or each_thread or go_both_ways or \
	(says_hello and (kvm-bash or kvm-clone-bash))"
LAB_ARM_FULL_TESTS ?= tests/kvm tests/behaviour/test_languages.py tests/behaviour/test_clones.py \
	tests/behaviour/test_network_device.py tests/behaviour/test_network_option.py \
	tests/behaviour/test_network_gateway.py tests/behaviour/test_tcp_port.py \
	tests/integration/test_gateway_process.py --machine kvm --through guest --through clone \
	-k "not test_languages or kvm-bash or kvm-python or kvm-c] or kvm-c- or kvm-go] or kvm-go- \
	or kvm-clone-bash"
# A board whose interrupt controller is of a kind that the VMM refuses.
LAB_ARM_OLDER_BOARD = --board virt,virtualization=on,gic-version=2
LAB_TIMEOUT ?= 3600
# What a foreign architecture changes for programs, in the language that boots fastest: a program of
# each behaviour in one guest, and one in a clone.
ARM64_TESTS ?= tests/behaviour/test_languages.py --arch arm64 --through guest --through clone \
	-k "qemu-bash] or (says_hello and qemu-clone-bash])"
KERNEL_TESTS ?= tests/behaviour/test_languages.py tests/behaviour/test_hostile.py \
	tests/behaviour/test_network_option.py tests/behaviour/test_processors.py --through guest \
	--through clone --through serial --through tcp -k "not test_languages or bash or python or c] or go]"
FUZZ_SECONDS ?= 600
FUZZ_FRAMES ?= 1000000
# What the lab's benchmarks take along besides Python and this project.
LAB_QEMU = $(foreach file,/usr/bin/qemu-system-x86_64 $(wildcard $(addprefix /usr/share/qemu/,pvh.bin \
	qboot.rom bios-microvm.bin linuxboot_dma.bin kvmvapic.bin)) /usr/bin/setpriv /bin/sh /bin/busybox,\
	--include $(file))

LAB_PYTEST = .venv/bin/python tests/lab run --timeout $(LAB_TIMEOUT) \
	--env HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis -- \
	.venv/bin/python -m pytest -p no:cacheprovider --basetemp /tmp/pytest

# Without the plugins that these tests do not need, some of which have compiled modules. An emulated
# guest of an emulated machine has more time.
LAB_ARM_PYTEST = .venv/bin/python tests/lab --arch arm64 run $(1) --memory 2048 --timeout $(LAB_TIMEOUT) \
	--env PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 -- \
	.venv/bin/python -m pytest -p pytest_asyncio.plugin -p pytest_timeout -p xdist.plugin \
	-p no:cacheprovider --basetemp /tmp/pytest --timeout 1200

.PHONY: run check coverage test images behaviour-ways behaviour-ports behaviour-arm64 mixed-jobs \
	kernel kernel-twice kernel-wheel behaviour-kernel killed-server killed-gateways browser \
	many-runs many-clones forks signals lint docs fuzz fuzz-frames bench bench-lab lab lab-full lab-arm \
	lab-arm-full bench-lab-arm clean

run: ## run FILE in a machine of its own, after installing and making what is missing
	@.ci/setup run
	@.venv/bin/vmm-run --verbose $(FILE) -- $(ARGS)

check: ## ruff, mypy and all tests that need Python alone: no image, no QEMU, no Debian package
	@.ci/setup check
	@.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy
	@$(call PYTEST,$(PLAIN)) -n $(WORKERS)

coverage: ## what the tests of make check reach, with the programs that they start; fails below the floor
	@.ci/setup check
	@.venv/bin/coverage erase
	@.venv/bin/coverage run -m pytest $(TESTS) -q -n $(WORKERS) -m "$(PLAIN) and not bare"
	@.venv/bin/coverage combine -q
	@.venv/bin/coverage report

test: images ## pass all tests; those of the kvm machine in the lab, where this host's own KVM is no use
	@$(call PYTEST,$(PLAIN)) -n $(WORKERS) $(OR_NONE)
	@$(call PYTEST,not ($(PLAIN)) and not alone) -n $(MACHINES) --dist loadgroup $(OR_NONE)
	@$(call PYTEST,not ($(PLAIN)) and alone) $(OR_NONE)
	@.venv/bin/python -m pytest $(ARM64_TESTS)
	@.venv/bin/python -m slipway.vmm.kvm.usability || $(MAKE) --no-print-directory lab
	@$(MAKE) --no-print-directory lab-arm

images: ## make the images of all languages, and two of a registry
	@.ci/setup test
	@.venv/bin/slipway image build --source debian --no-snapshot all
	@.venv/bin/slipway image build --source debian bash
	@.venv/bin/slipway image build --source debian --no-snapshot --arch arm64 bash
	@.venv/bin/python tests/loopback_images.py

behaviour-ways: images ## all behaviours of all languages by clones, library, server and command line
	@.venv/bin/python -m pytest tests/behaviour/test_languages.py --through guest --through clone \
		--through runtime --through client --through cli

behaviour-ports: images ## all behaviours of one language over each port of the agent
	@.venv/bin/python -m pytest tests/behaviour/test_languages.py tests/behaviour/test_tcp_port.py \
		--through guest --through serial --through tcp \
		-k "test_tcp_port or bash"

behaviour-arm64: images ## all behaviours of all languages on arm64, which is emulated on other hosts
	@.venv/bin/slipway image build --source debian --no-snapshot --arch arm64 all
	@.venv/bin/python tests/loopback_images.py --arch arm64
	@.venv/bin/python -m pytest tests/behaviour/test_languages.py --arch arm64 --through guest \
		--through clone -k "not (rust and loopback)"

kernel: ## compile the small kernel for both architectures, at a lower priority
	@.ci/setup kernel
	@.venv/bin/slipway kernel build --arch amd64
	@.venv/bin/slipway kernel build --arch arm64

kernel-twice: ## compile the small kernel of this host twice, and compare every byte
	@.ci/setup kernel
	@.venv/bin/python tests/kernel_twice.py

kernel-wheel: kernel ## pack the small kernels into dist/slipway_kernel-*.whl
	@.venv/bin/python .ci/kernel_wheel.py dist

behaviour-kernel: images ## all behaviours of four languages on the small kernel, which it compiles first
	@.ci/setup kernel
	@.venv/bin/slipway kernel build
	@.venv/bin/python -m pytest --kernel small $(KERNEL_TESTS)
	@.venv/bin/slipway kernel build --arch arm64
	@.venv/bin/python -m pytest --kernel small $(ARM64_TESTS)

mixed-jobs: images ## 50 jobs of all languages at once on a server that may have two machines
	@SLIPWAY_TEST_JOBS=50 .venv/bin/python -m pytest tests/behaviour/test_mixed_jobs.py

killed-server: images ## kill the server at 200 random times; SLIPWAY_TEST_SEED repeats them
	@SLIPWAY_TEST_KILLS=200 .venv/bin/python -m pytest tests/behaviour/test_killed_server.py

killed-gateways: ## kill 1,000 gateways with their parent at random times; SLIPWAY_TEST_SEED repeats them
	@.ci/setup check
	@SLIPWAY_TEST_KILLS=1000 .venv/bin/python -m pytest tests/integration/test_gateway_process.py \
		-k random_times --timeout 3600

browser: ## let Chromium, which it installs, show a page of Flask that runs in a session
	@.ci/setup browser
	@.venv/bin/slipway image build --no-snapshot python
	@.venv/bin/python tests/browser.py

many-runs: images ## 1,000 runs through the pool, and nothing is left of any
	@SLIPWAY_TEST_RUNS=1000 .venv/bin/python -m pytest tests/behaviour/test_many_runs.py

many-clones: images ## 100 clones of one machine, and no two alike
	@SLIPWAY_TEST_CLONES=100 .venv/bin/python -m pytest tests/behaviour/test_distinct_clones.py

signals: ## 200 signals at random moments of each command; one ends it, and nothing is left
	@SLIPWAY_TEST_SIGNALS=200 .venv/bin/python -m pytest --timeout 3600 -rP \
		tests/integration/test_cli_signals.py

forks: ## 1,000 forks of a small program with threads, and 100 of a QEMU; nothing is left of any
	@SLIPWAY_TEST_FORKS=1000 .venv/bin/python -m pytest tests/integration/test_process_forks.py -k many
	@SLIPWAY_TEST_FORKS=100 .venv/bin/python -m pytest tests/integration/test_warm_clones.py -k many

lint:
	@.ci/setup test
	@.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy

docs: ## build the pages and the API reference into site/; a warning is an error
	@.ci/setup check
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict
	@echo "built site/index.html"

fuzz: ## look for crashes of what reads images, by coverage
	@.ci/setup test
	@.venv/bin/pip install -q --disable-pip-version-check atheris
	@for target in layers manifests decompression layout; do \
		PYTHONPATH=tests:initramfs .venv/bin/python tests/fuzz/coverage.py $$target \
			-max_total_time=$(FUZZ_SECONDS) || exit; done

fuzz-frames: ## send the gateway a million damaged frames, and frames that are nearly right
	@.ci/setup test
	@SLIPWAY_FUZZ_FRAMES=$(FUZZ_FRAMES) .venv/bin/python -m pytest -q --timeout 0 tests/fuzz/test_gateway_frames.py

bench: ## measure, side by side
	@.ci/setup test
	@.venv/bin/python bench/boot.py
	@.venv/bin/python bench/as_typed.py
	@.venv/bin/python bench/startup.py
	@.venv/bin/python bench/command.py
	@.venv/bin/python bench/throughput.py
	@.venv/bin/python bench/ports.py --port serial --text
	@.venv/bin/python bench/images.py
	@.venv/bin/python bench/image_builds.py
	@.venv/bin/python bench/api.py
	@.venv/bin/python bench/clones.py
	@.venv/bin/python bench/translated_code.py
	@.venv/bin/python bench/idle_memory.py
	@.venv/bin/python bench/jobs.py
	@.venv/bin/python bench/network.py
	@.venv/bin/python bench/network_start.py
	@.venv/bin/python bench/virtio_net.py
	@.venv/bin/slipway image build --source debian --arch arm64 python
	@.venv/bin/python bench/board_load.py
	@.venv/bin/slipway kernel list --json | grep -q '"small"' && .venv/bin/python bench/kernels.py || \
		echo "no small kernel: make kernel"
	@test ! -w /dev/kvm || .venv/bin/python bench/vmm_start.py

lab: images ## pass the tests that need KVM, in a machine that has it
	@$(LAB_PYTEST) $(LAB_TESTS)

lab-full: images ## the same with all behaviours of all languages
	@$(LAB_PYTEST) $(LAB_FULL_TESTS)

lab-arm: ## pass a few tests that need KVM on an emulated Arm machine that has it
	@.ci/setup test
	@.venv/bin/slipway image build --source debian --no-snapshot --arch arm64 bash
	@$(call LAB_ARM_PYTEST) $(LAB_ARM_TESTS)

lab-arm-full: LAB_TIMEOUT = 7200
lab-arm-full: ## the same with all of them, and all behaviours of four languages
	@.ci/setup test
	@.venv/bin/slipway image build --source debian --no-snapshot --arch arm64 bash c go python
	@$(call LAB_ARM_PYTEST) $(LAB_ARM_FULL_TESTS)
	@$(call LAB_ARM_PYTEST,$(LAB_ARM_OLDER_BOARD)) tests/kvm/test_older_gic_aarch64.py

bench-lab: images ## measure our VMM against QEMU's on the lab's KVM, in virtual time
	@.venv/bin/python bench/exits.py --prepare
	@.venv/bin/python tests/lab run -- .venv/bin/python bench/exits.py
	@.venv/bin/python tests/lab run -- .venv/bin/python bench/network_exits.py
	@kernel=$$(.venv/bin/python bench/kvm_boot.py --print-kernel) && for bench in kvm_boot kvm_serial; do \
		.venv/bin/python tests/lab run --icount --memory 2048 --python $(LAB_QEMU) --include $$kernel \
			-- .venv/bin/python bench/$$bench.py --kernel $$kernel; done
	@files=$$(.venv/bin/python bench/kvm_clone.py --print files) && \
		eval .venv/bin/python tests/lab run --icount --memory 3072 --python $$files -- \
		.venv/bin/python bench/kvm_clone.py $$(.venv/bin/python bench/kvm_clone.py --print arguments)

bench-lab-arm: ## the exits of a boot on aarch64, and a clone against a boot in virtual time
	@.ci/setup test
	@.venv/bin/slipway image build --source debian --no-snapshot --arch arm64 bash python
	@.venv/bin/python tests/lab --arch arm64 run --memory 2048 -- \
		.venv/bin/python bench/exits.py --port virtio
	@files=$$(.venv/bin/python bench/kvm_clone.py --arch arm64 --print files) && \
		arguments=$$(.venv/bin/python bench/kvm_clone.py --arch arm64 --print arguments) && \
		eval .venv/bin/python tests/lab --arch arm64 run --icount --memory 3072 --python $$files -- \
		.venv/bin/python bench/kvm_clone.py $$arguments

clean: ## remove what was set up here; the image store stays (slipway image prune)
	rm -rf .venv build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.*
