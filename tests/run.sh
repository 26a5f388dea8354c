#!/usr/bin/env bash
# Runs every test of a build and closes with "N passed, N failed": the cmocka programs tests/t_*, the operator check, the
# example and the command line. Usage: tests/run.sh build/release   (from the top of the checkout)
set -u
build=${1:?usage: tests/run.sh BUILD_FOLDER}
passed=0 failed=0
export CMOCKA_MESSAGE_OUTPUT=TAP
export GOMP_SPINCOUNT=1000 # as the program sets it for itself: the cores may be shared with other work
export UBSAN_OPTIONS=print_stacktrace=1

# Counts "ok" and "not ok" lines of one program, or takes its closing line "N passed, N failed"; a program that dies without
# either counts as one failure.
count() {
    local name=$1 log status good bad started=$SECONDS
    shift
    log=$(mktemp)
    "$@" > "$log" 2>&1
    status=$?
    good=$(grep -c '^ok ' "$log")
    bad=$(grep -c '^not ok [0-9]* [^#]\|^not ok [0-9]*$' "$log") # "not ok 3 # SKIP" is cmocka's word for a skipped one
    if [[ $(tail -n 1 "$log") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
        good=${BASH_REMATCH[1]} bad=${BASH_REMATCH[2]}
    fi
    [ "$status" != 0 ] && [ "$bad" = 0 ] && bad=1
    [ "$status" = 0 ] && [ "$good" = 0 ] && bad=1
    passed=$((passed + good)) failed=$((failed + bad))
    printf '%-16s %4d passed %3d failed  %3d s\n' "$name" "$good" "$bad" $((SECONDS - started))
    [ "$bad" = 0 ] || sed 's/^/    /' "$log"
    rm -f "$log"
}

for program in "$build"/tests/t_*; do
    [ -x "$program" ] && count "$(basename "$program")" "$program"
done
for isa in $("$build/opcheck" --isas); do # the golden runs on every set of kernels that this CPU runs
    count "golden $isa" env GIMBAL_ISA="$isa" "$build/tests/t_golden"
done
for backend in dnn ref; do
    count "golden $backend" env GIMBAL_BACKEND="$backend" "$build/tests/t_golden"
done
count opcheck "$build/opcheck"
count example tests/example.sh "$build"
count cli tests/cli.sh "$build/gimbal"
count cli_video tests/cli_video.sh "$build/gimbal"
count cli_image tests/cli_image.sh "$build/gimbal"
count cli_videofusion tests/cli_videofusion.sh "$build/gimbal"
count cli_day tests/cli_day.sh "$build/gimbal"
count cli_resume tests/cli_resume.sh "$build/gimbal"
count cli_train tests/cli_train.sh "$build/gimbal"
count cli_bench tests/cli_bench.sh "$build/gimbal"
count cli_analyze tests/cli_analyze.sh "$build/gimbal"
count cli_report tests/cli_report.sh "$build/gimbal"
count cli_compare tests/cli_compare.sh "$build/gimbal"
count cli_measure tests/cli_measure.sh "$build/gimbal"
count cli_fuzz tests/cli_fuzz.sh "$build/gimbal"
count contributing tests/contributing.sh "$build"
count install tests/install.sh "$build"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
