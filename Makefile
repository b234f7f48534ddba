# SPDX-License-Identifier: GPL-2.0
# What a person wants done; every target runs inside the build root. The kernel reads Kbuild, never this file.

SHELL := /bin/bash
ENTER := tools/root/enter
CARGO := $(ENTER) env -C tools cargo
BED := $(ENTER) /build/target/x86_64-unknown-linux-gnu/release/bed
export SEMIASSIGN_CACHE ?= /var/cache/semiassign
# KERNEL=stock|full|debug is what L1 runs and modules are built for: stock, if not said. T=name chooses scenarios; CMD='script' is what `make l1` runs; NAME=x is the adapter that `make new-adapter` makes.
# M=regex chooses mutants. S=60 are seconds of a fuzzer, N=100 migrations of a soak, ROUNDS=10 those of a benchmark.
export KERNEL ?=
T ?=
M ?=
S ?= 60
N ?= 100
CANCEL ?=
ROUNDS ?= 10
CMD ?=
NAME ?=
# As typed: make must not expand the shell's own dollars.
export L1_SCRIPT := $(value CMD)

.PHONY: help root kernel-full kernel-debug modules bed l1 install demo demo-two-hosts test kunit selftests soak bench check fuzz coverage mutants bench-model new-adapter clean distclean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / { sub(/:.*/, "", $$1); printf "  make %-24s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

root: ## make or complete the build root and the kernel tree in $SEMIASSIGN_CACHE (other targets do it by themselves)
	@tools/root/make-root $(filter-out stock,$(KERNEL))

kernel-full kernel-debug: kernel-%: ## the same, with another kernel for L1: see tools/kernels
	@tools/root/make-root $*

modules: root ## build semiassign.ko for KERNEL; the checkout stays clean
	@tools/root/build-module

bed: root
	@$(CARGO) build --release --bin bed

l1: modules bed ## boot the host under test, run CMD='shell script' in it and pass its exit status on
	@$(BED) l1 $${L1_SCRIPT:+--script "$$L1_SCRIPT"}

install: KERNEL = stock
install: modules ## install semiassign.ko on this host, if it runs the kernel it was built for
	@tools/root/install-module

demo: modules bed ## migrate a guest from a VF of one PF to a VF of the other, under traffic, and judge it
	@$(BED) demo

demo-two-hosts: modules bed ## the same between two hosts on one segment, there and back, and a migration that is cancelled
	@$(BED) demo-two-hosts

test: modules bed ## form, host-side tests, then the end-to-end scenarios: each on stock or debug, where it tells most, or all on KERNEL; T=name chooses scenarios only
	@tools/run-tests $(T)

kunit: ## the suites that only the kernel can run, in L1 with the full kernel (or KERNEL=debug)
	@$(MAKE) --no-print-directory test T=kunit KERNEL=$(if $(filter debug,$(KERNEL)),debug,full)

selftests: ## VFIO's own tests on a VF of ours, in L1 with the full kernel (or KERNEL=debug)
	@$(MAKE) --no-print-directory test T=vfio_selftests KERNEL=$(if $(filter debug,$(KERNEL)),debug,full)

soak: modules bed ## migrate a guest to and fro until N migrations are done (100) or one fails; goes on where the last one stopped; CANCEL=1 cancels each at a random time
	@$(BED) soak '$(N)' $(if $(CANCEL),--cancel)

bench: modules bed ## semiassign beside vfio-pci, virtio-net with vhost and the failover pair: tables and pictures; T=part for one of its parts
	@$(BED) bench $(T) --rounds '$(ROUNDS)'

check: root ## rustfmt, clippy, rustdoc, shellcheck, licence lines, and who may use what
	@$(ENTER) tools/run-checks

fuzz: root ## T=target for S=60 seconds, from its seeds and all that was found before; T=all for each in turn; alone, lists them
	@tools/run-fuzz '$(T)' '$(S)'

coverage: root ## lines of rust/model and drivers/igbvf that host-side tests run; fails below 95 %
	@$(ENTER) tools/run-coverage

mutants: root ## change these two in one small way after the other: which changes does no test see? M=regex chooses
	@$(ENTER) tools/run-mutants '$(M)'

bench-model: root ## what the model costs: ns and instructions for each frame and each image
	@$(ENTER) tools/run-bench-model

new-adapter: ## make drivers/$NAME from samples/adapter_null: a first model of another family of VFs
	@tools/new-adapter '$(NAME)'

clean: ## remove what was built, keep the root and its kernel tree
	rm -rf $(SEMIASSIGN_CACHE)/build

distclean: ## remove the whole cache folder
	rm -rf --one-file-system $(SEMIASSIGN_CACHE)
