# What tests of gimbal generate share; sourced behind tests/kit/cases.sh. G is the program.

# run ARGS: stdout and stderr into files; the program's own status.
run() { timeout 120 "$G" "$@" > "$work/std" 2> "$work/err"; }

# refuses STATUS TEXT NAME ARGS: that status, one error line with TEXT, nothing on stdout, no file left.
refuses() {
    local want=$1 text=$2 name=$3 status
    shift 3
    fresh
    run generate "$@" -o "$out/x.gif"
    status=$?
    [ $status = "$want" ] && [ "$(grep -c '^gimbal: error: ' "$work/err")" = 1 ] && grep -qF -- "$text" "$work/err" &&
        [ ! -s "$work/std" ] && [ -z "$(ls -A "$out")" ]
    ok "$name"
}
