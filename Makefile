# The front door: set-up, build, demo and tests in one word each. CMake does the work (see CMakePresets.json).
#
#   make demo    install what is missing (Debian packages), build, turn a prompt into two clips and a picture
#   make test    the same set-up, then every test; ends with "N passed, N failed"

SHELL := /bin/bash
GIMBAL := build/release/gimbal
PROMPT := green triangle bouncing, striped orange background
SEED := 15
IMAGE_PROMPT := a large red circle moving right over a plain white background
PREFIX ?= /usr/local
PYTHON ?= python3

.PHONY: help setup build demo demo-image test results results-full train-toyworld train-toyfusion study-videofusion bench bench-full bench-peer asan tsan fuzz check format install clean

help:
	@echo 'make demo     install Debian packages if needed, build, make demo/plain.mp4, demo/freeinit.mp4, demo/sheet.png'
	@echo 'make demo-image   FrameInit from a picture on the bundled text-to-video model (not ConsistI2V): demo/image.png'
	@echo 'make test     the same set-up, then all tests'
	@echo 'make build    the release build alone: $(GIMBAL)'
	@echo 'make install  program, library, header and example model into PREFIX ($(PREFIX)), staged in DESTDIR if given'
	@echo 'make results  the evidence for FreeInit and its kin, short form (a few minutes); results-full: docs/RESULTS.md (hours, resumes)'
	@echo 'make train-toyworld   trains the bundled model on (hours; goes on where it was): build/toyworld; train-toyfusion: VideoFusion'
	@echo 'make study-videofusion   the evidence for VideoFusion in docs/RESULTS.md (hours, resumes)'
	@echo 'make bench    gimbal beside PyTorch, a short form; bench-full: the sizes people run; bench-peer: gets PyTorch from PyPI'
	@echo 'make asan     all tests under AddressSanitizer and UBSan'
	@echo 'make tsan     what threads share, under ThreadSanitizer'
	@echo 'make fuzz     libFuzzer on every parser, FUZZ_SECONDS (60) each; installs clang if needed'
	@echo 'make check    include order between folders, formatting, docs/API.md'
	@echo 'make format   clang-format every source file'
	@echo 'make clean    remove build/ and demo/'

setup:
	@tools/setup.sh

build: setup
	@mkdir -p build && cmake --preset release > build/release.log 2>&1 || { cat build/release.log; exit 1; }
	@cmake --build --preset release

demo: build
	@mkdir -p demo
	$(GIMBAL) generate --model models/toyworld --prompt '$(PROMPT)' --rng torch --seed $(SEED) --cfg 5 -o demo/plain.mp4
	$(GIMBAL) generate --model models/toyworld --prompt '$(PROMPT)' --rng torch --seed $(SEED) --cfg 5 --reinit freeinit:passes=3 -o demo/freeinit.mp4
	$(GIMBAL) sheet demo/plain.mp4 demo/freeinit.mp4 -o demo/sheet.png
	@echo 'demo/sheet.png: above without, below with FreeInit; the clips are demo/plain.mp4 and demo/freeinit.mp4'

# FrameInit on a text-to-video model, which keeps to the picture's layout; ConsistI2V, which begins with it, is gigabytes large
demo-image: build
	@mkdir -p demo
	$(GIMBAL) generate --model models/toyworld --prompt '$(IMAGE_PROMPT)' --count 2 --seed 1 --cfg 5 -o demo/image-without.mp4
	$(GIMBAL) generate --model models/toyworld --prompt '$(IMAGE_PROMPT)' --count 2 --seed 1 --cfg 5 --image models/toyworld/picture.png --reinit frameinit -o demo/image-with.mp4
	$(GIMBAL) sheet models/toyworld/picture.png demo/image-without-000[12].mp4 demo/image-with-000[12].mp4 -o demo/image.png
	@echo 'demo/image.png: the picture, two seeds without it, the same two with FrameInit from it (AnimateDiff on toyworld, not ConsistI2V)'

test: build
	@tests/run.sh build/release

# Python compares and does nothing else here. BENCH_FLAGS: as bench/compare.py --help says, e.g. --rounds 5
bench: build
	@$(PYTHON) bench/compare.py --quick $(BENCH_FLAGS)

bench-full: build
	@$(PYTHON) bench/compare.py --full $(BENCH_FLAGS)

bench-peer:
	@$(PYTHON) bench/compare.py --install

# what was made stays in build/results*/scores.jsonl: an interrupted run goes on where it was
results: build
	@mkdir -p build/results && GOMP_SPINCOUNT=1000 build/release/results short build/results > build/results/tables && mv build/results/tables build/results/RESULTS.md
	@cat build/results/RESULTS.md

results-full: build
	@mkdir -p build/results-full && GOMP_SPINCOUNT=1000 build/release/results full build/results-full > build/results-full/tables && mv build/results-full/tables build/results-full/RESULTS.md
	@echo 'build/results-full/RESULTS.md'

train-toyworld: build
	@tools/train_toyworld.sh build/release build/toyworld

train-toyfusion: build
	@tools/train_toyfusion.sh build/release build/toyfusion

study-videofusion: build
	@mkdir -p build/fusion && tools/fusion_study.sh build/release build/fusion | tee build/fusion/RESULTS.md

asan: setup
	@mkdir -p build && cmake --preset asan > build/asan.log 2>&1 || { cat build/asan.log; exit 1; }
	@cmake --build --preset asan
	@tests/run.sh build/asan

# ThreadSanitizer does not know OpenMP's runtime: our kernels run without it, oneDNN on one thread
tsan: setup
	@mkdir -p build && cmake --preset tsan > build/tsan.log 2>&1 || { cat build/tsan.log; exit 1; }
	@cmake --build --preset tsan
	@OMP_NUM_THREADS=1 TSAN_OPTIONS=halt_on_error=1 build/tsan/tests/t_threads

fuzz: setup
	@tools/fuzz.sh run

check:
	@tools/check-layers.sh
	@tools/check-format.sh
	@tools/api-docs.sh --check

format:
	@clang-format -i $$(git ls-files '*.c' '*.h')

# ldconfig makes the new library known at once; a staged or private installation has no business there
install: build
	@DESTDIR="$(DESTDIR)" cmake --install build/release --prefix "$(abspath $(PREFIX))" > build/install.log || { cat build/install.log; exit 1; }
	@[ -n "$(DESTDIR)" ] || [ "$$(id -u)" != 0 ] || ldconfig
	@echo 'installed in $(DESTDIR)$(abspath $(PREFIX))'

clean:
	rm -rf build demo
