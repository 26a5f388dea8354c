#!/usr/bin/env bash
# The fuzz targets of tests/fuzz, from the top of the checkout:
#   tools/fuzz.sh run       each target for FUZZ_SECONDS (default 60), beginning with its corpus; 1 when one breaks
#   tools/fuzz.sh keep DIR  merge what DIR/NAME/ holds into the corpora, as few and as small files as reach the same
#   tools/fuzz.sh cover     line coverage of the committed corpora, per parser; 1 when one is below 80 %
# Needs clang with libFuzzer, which it installs on Debian when it is missing (users of gimbal never need it). TARGETS="json
# recipe" chooses some; FUZZ_BUILD is the build folder.
set -euo pipefail
cd "$(dirname "$0")/.."

# parser and the target that reaches it, for `cover`
PARSERS="src/io/safetensors.c:safetensors src/io/json.c:json src/io/folder.c:folder src/io/tokenizer.c:tokenizer
    src/io/words.c:tokenizer src/base/option.c:options src/diffusion/registry.c:options src/diffusion/recipe.c:recipe
    src/diffusion/schedule.c:config src/diffusion/driver_state.c:state app/npy.c:npy
    app/train_list.c:clips"
TARGETS=${TARGETS:-$(cd tests/fuzz && ls fuzz_*.c | sed 's/^fuzz_//; s/\.c$//')}
export ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1

need_clang() {
    local found
    found=$(clang -print-file-name=libclang_rt.fuzzer-x86_64.a 2> /dev/null || true)
    [ -e "$found" ] || found=$(ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a 2> /dev/null | head -n 1)
    [ -n "$found" ] && command -v clang llvm-cov llvm-profdata > /dev/null && return
    echo "fuzz: installing Debian packages: clang llvm libclang-rt-14-dev"
    local run=""
    [ "$(id -u)" = 0 ] || run=sudo
    $run apt-get install -y --no-install-recommends clang llvm libclang-rt-14-dev > /dev/null 2>&1 ||
        { $run apt-get update > /dev/null && $run apt-get install -y --no-install-recommends clang llvm libclang-rt-14-dev > /dev/null; }
}

# build PRESET: the targets into $build.
build() {
    need_clang
    build=${FUZZ_BUILD:-build/$1}
    mkdir -p "$build"
    cmake --preset "$1" -B "$build" > "$build/cmake.log" 2>&1 || { cat "$build/cmake.log"; exit 1; }
    cmake --build "$build" --target fuzzers > "$build/build.log" 2>&1 || { cat "$build/build.log"; exit 1; }
}

# What breaks a target stays in build/fuzz/found-NAME-*; put it into the corpus with the fix.
run() {
    local seconds=${FUZZ_SECONDS:-60} status=0 found
    build fuzz
    for name in $TARGETS; do
        found=$build/new-$name
        mkdir -p "$found"
        if "$build/fuzz_$name" -max_len=4096 -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
            -artifact_prefix="$build/found-$name-" "$found" "tests/fuzz/corpus/$name" > "$build/$name.log" 2>&1; then
            echo "ok - fuzz_$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$name.log") inputs in $seconds s"
        else
            status=1
            echo "not ok - fuzz_$name"
            tail -n 40 "$build/$name.log" | sed 's/^/    /'
        fi
    done
    rm -rf /dev/shm/gimbal-fuzz-* # of targets that broke
    return $status
}

keep() {
    local from=$1
    build fuzz
    for name in $TARGETS; do
        local old=tests/fuzz/corpus/$name new=$build/kept-$name
        mkdir -p "$old" "$from/$name"
        rm -rf "$new" && mkdir -p "$new"
        "$build/fuzz_$name" -merge=1 -use_counters=0 -max_len=4096 "$new" "$old" "$from/$name" > "$build/$name.log" 2>&1
        find "$old" -type f ! -name 'found-*' -delete # what once broke something stays
        cp "$new"/* "$old"
        echo "fuzz_$name: $(ls "$old" | wc -l) files, $(cat "$old"/* | wc -c) bytes"
    done
}

cover() {
    local status=0 parser file name lines
    build coverage
    for name in $TARGETS; do
        LLVM_PROFILE_FILE=$build/$name.profraw "$build/fuzz_$name" -runs=0 "tests/fuzz/corpus/$name" > "$build/$name.log" 2>&1
        llvm-profdata merge -o "$build/$name.profdata" "$build/$name.profraw"
    done
    for parser in $PARSERS; do
        file=${parser%:*} name=${parser#*:}
        [ -e "$build/$name.profdata" ] || continue
        lines=$(llvm-cov export -summary-only -instr-profile="$build/$name.profdata" "$build/fuzz_$name" "$file" |
            grep -o '"lines":{"count":[0-9]*,"covered":[0-9]*' | tail -n 1 | grep -o '[0-9]*')
        set -- $lines
        printf '%-28s %4d of %4d lines  %5.1f %%  fuzz_%s\n' "$file" "$2" "$1" "$(awk "BEGIN { print 100 * $2 / $1 }")" "$name"
        [ $((100 * $2)) -ge $((80 * $1)) ] || status=1
    done
    return $status
}

case ${1:-} in
    run) run ;;
    keep) keep "${2:?usage: tools/fuzz.sh keep DIR}" ;;
    cover) cover ;;
    *) echo "usage: tools/fuzz.sh run | keep DIR | cover" >&2; exit 2 ;;
esac
