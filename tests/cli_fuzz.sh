#!/usr/bin/env bash
# The command line under hostile values and in odd surroundings: whatever is asked, the program ends by itself with status 0, 1
# or 2, quickly, with one error at most. Flags are those of `gimbal help COMMAND`, so new ones are met without a line here.
# Random, but always the same: the seed is fixed (SEED=n for others; RUNS=n for more a command).
# Usage: tests/cli_fuzz.sh build/release/gimbal   (from the top of the checkout). Prints "ok N - name" lines.
set -u
G=$(realpath "${1:?usage: tests/cli_fuzz.sh PROGRAM}")
SMALL=(--prompt cat --frames 2 --width 40 --height 24 --steps 1)
RANDOM=${SEED:-47}
RUNS=${RUNS:-15}
work=$(mktemp -d)
trap 'cd /; rm -rf "$work"' EXIT
mkdir "$work/cwd" "$work/out" "$work/folder" "$work/mine"
# copies: an output may be any of the paths below
cp -r tests/golden/models/animatediff-tiny tests/golden/models/animatediff-tiny-motion tests/golden/runs/ad_plain.in.safetensors \
    README.md models/toyworld "$work/mine"
TINY=(--model "$work/mine/animatediff-tiny" --motion "$work/mine/animatediff-tiny-motion")
LATENTS=$work/mine/ad_plain.in.safetensors
"$G" --version | grep -q sanitizers && sanitized=1 cpu_limit=30 || sanitized='' cpu_limit=3
export ASAN_OPTIONS=exitcode=99 UBSAN_OPTIONS=exitcode=99 # a report is no ordinary failure
n=0 failed=0

# ok NAME: the last command's status decides; $why, $said and $work/err are shown when it failed.
ok() {
    local status=$?
    n=$((n + 1))
    if [ $status = 0 ]; then
        echo "ok $n - $1"
        return
    fi
    failed=$((failed + 1))
    echo "not ok $n - $1"
    printf '# %s\n# ' "$why"
    printf '%q ' "${said[@]:0:40}" | cut -c 1-600
    head -c 2000 "$work/err" | cat -v | sed 's/^/# /' | head -n 12
}

# run ARGS: status, CPU seconds, stdout and stderr.
run() {
    said=("$@")
    TIMEFORMAT='%U %S'
    { time timeout -k 1 60 "$G" "$@" > "$work/std" 2> "$work/err" < /dev/null; status=$?; } 2> "$work/time"
}

# sound: what holds after every run, or says in $why what does not.
sound() {
    local errors hints
    errors=$(LC_ALL=C grep -ac '^gimbal: error: ' "$work/err")
    hints=$(LC_ALL=C grep -ac '^  hint: ' "$work/err")
    why="status $status, $errors errors, $hints hints, CPU seconds $(tr '\n' ' ' < "$work/time")"
    [ "$status" -le 2 ] && [ "$hints" -le 1 ] && [ "$errors" = $((status > 0)) ] &&
        ! LC_ALL=C grep -aqE 'Sanitizer|runtime error|Assertion' "$work/err" &&
        awk -v limit=$cpu_limit '{ exit !($1 + $2 < limit) }' "$work/time"
}

# ---- hostile values ----------------------------------------------------------------------------------------------------------

long=$(head -c 100000 /dev/zero | tr '\0' x)
mknod "$work/full" c 1 7 2> /dev/null || ln -s /dev/full "$work/full"
mknod "$work/zero" c 1 5 2> /dev/null || ln -s /dev/zero "$work/zero"
: > "$work/empty"
head -c 5000 /dev/urandom > "$work/noise"
ln -s "$work/loop" "$work/loop"
numbers=('' 0 1 -1 2 2147483647 2147483648 -2147483648 4294967296 9223372036854775807 18446744073709551615 18446744073709551616
    nan NAN inf -inf 1e999 -1e999 1e-999 1e308 0x10 1e3 1,5 '1 ' ' 1' +1 -- 0.0000001 99999999999999999999999999 ٣ 1x)
texts=('' '%n%n%n%s' '%s%s%s' $'\xff\xfe\xc3\x28' $'caf\xe9' $'\xed\xa0\x80' '🎥 中文' $'a\nb' $'\e[31m' "$long" '"; rm x; "' '$(id)' : , = :,=
    ../../../../../../ white freeinit: freeinit:passes freeinit:passes=0,filter freeinit:passes=64,fast=1 none:none=none '{"a":'
    mixed:alpha=nan shared:lambda=1e999 "freeinit:$long" freeinit:passes=1,passes=2 freeinit:,,,)
paths=('' / . .. "$work" "$work/folder" "$work/full" "$work/zero" "$work/empty" "$work/noise" "$work/loop" "$work/none/x" /dev/null
    "$work/none.mp4" "$LATENTS" "$work/mine/README.md" "$work/mine/toyworld" "$work/$long" $'\xff\xfe' '%d%d' '%n.png' '%9999999d.png' -
    "$work/mine/animatediff-tiny/unet" /proc/self/mem /proc/self/environ "$work/out/%d" .mp4 x.safetensors/y)

pick() { # ARRAY: one of it, into $picked
    local -n list=$1
    picked=${list[RANDOM % ${#list[@]}]}
}

# hostile_value LABEL: for "--frames N", "--prompt TEXT", ...; now and then of another kind.
hostile_value() {
    case $((RANDOM % 8)):$1 in
        0:*) pick numbers ;;
        1:*) pick texts ;;
        2:*) pick paths ;;
        *' N' | *' X') pick numbers ;;
        *model* | *motion* | *file* | *save* | *latents* | *noise* | *again* | *video* | *image* | *output* | *preview* | *resume*) pick paths ;;
        *) pick texts ;;
    esac
}

# hostile_args LABELS...: one to three flags with such values, into args+=(); sometimes the value is left out at the end.
hostile_args() {
    local labels=("$@") label flag
    for _ in $(seq $((1 + RANDOM % 3))); do
        [ ${#labels[@]} = 0 ] && break
        label=${labels[RANDOM % ${#labels[@]}]}
        flag=${label%% *}
        hostile_value "$label"
        case $((RANDOM % 6)) in
            0) args+=("$flag=$picked") ;;
            1) args+=("$flag" "$picked" "$flag" "$picked") ;;
            *) args+=("$flag" "$picked") ;;
        esac
    done
    [ $((RANDOM % 10)) = 0 ] && args+=("${labels[0]%% *}")
    return 0
}

# base_args COMMAND I: what makes the run a short one: a model that is not there, an output that cannot be, or a dry run.
base_args() {
    local text
    args=()
    pick paths && text=$picked
    case $1 in
        generate) [ $(($2 % 4)) = 0 ] && args=("${TINY[@]}" "${SMALL[@]}" --dry-run -o "$work/out/x.mp4") ||
            args=(--model "$work/none" --prompt x -o "$work/out/x.mp4") ;;
        decode) [ $(($2 % 4)) = 0 ] && args=("${TINY[@]}" "$text" -o "$work/none/x.png") || args=(--model "$work/none" "$text" -o x.mp4) ;;
        noise) args=(-o "$work/none/x.safetensors") ;;
        tokenize) args=("${TINY[@]:0:2}" "$text") ;;
        encode-text) args=("${TINY[@]:0:2}" --prompt "$text" --save "$work/none/x.safetensors") ;;
        *) args=("$text") ;;
    esac
}

# fuzz COMMAND: RUNS runs; stops at the first that is not sound.
fuzz() {
    local labels i
    cd "$work/cwd" || return
    mapfile -t labels < <("$G" help "$1" | sed -n 's/^  \(--[a-z0-9-]*\( [NX]\| TEXT\)\{0,1\}\).*/\1/p')
    why="gimbal help $1 lists no flags"
    [ ${#labels[@]} -gt 0 ] || return
    for ((i = 0; i < RUNS; i++)); do
        base_args "$1" "$i"
        hostile_args "${labels[@]}"
        run "$1" "${args[@]}"
        sound || return
    done
}

commands=$("$G" 2>&1 | sed -n 's/^subcommands: *//p')
why='gimbal alone lists no subcommands' said=()
[ "$(wc -w <<< "$commands")" -ge 6 ]
ok 'gimbal alone lists its subcommands'
for command in $commands; do
    fuzz "$command"
    ok "$command takes any value of its flags with an answer"
done
cd "$work/cwd" || exit 1
for ((i = 0; i < RUNS; i++)); do
    pick texts && first=$picked && pick paths
    run "$first" "$picked" && sound || { sound || break; }
done
sound
ok 'any word is taken for a subcommand with an answer'
why="left: $(ls -A "$work/out" | head -n 3 | tr '\n' ' ')" && [ -z "$(ls -A "$work/out")" ]
ok 'nothing was written beside what was asked for'

# ---- odd surroundings --------------------------------------------------------------------------------------------------------------

# A clip as anybody makes it, to compare with.
clip=(generate "${TINY[@]}" "${SMALL[@]}" --quiet --threads 1)
cd "$work/out" || exit 1
run "${clip[@]}" -o "$work/out/plain.mp4" && sound
ok 'a small clip is made'
same() { cmp -s "$work/out/plain.mp4" "$work/out/x.mp4"; }

# around NAME COMMAND...: the clip is made by COMMAND "$G" ..., and is the same.
around() {
    local name=$1
    shift
    rm -f "$work/out/x.mp4"
    said=("$@" "${clip[@]}")
    TIMEFORMAT='%U %S'
    { time timeout -k 1 60 "$@" "$G" "${clip[@]}" -o "$work/out/x.mp4" > "$work/std" 2> "$work/err" < /dev/null; status=$?; } 2> "$work/time"
    sound && [ $status = 0 ] && same
    ok "$name"
}
around 'it needs no HOME' env -u HOME
around 'it needs no environment at all' env -i
around 'LC_ALL=C changes nothing' env LC_ALL=C
localedef -i de_DE -f UTF-8 "$work/de_DE.UTF-8" 2> /dev/null
# newlocale of glibc 2.36 loses its copy of LOCPATH
around 'nor does a locale with decimal commas' env ASAN_OPTIONS=exitcode=99:detect_leaks=0 LOCPATH="$work" LC_ALL=de_DE.UTF-8
around 'nor one that does not exist' env LC_ALL=xx_YY.KOI LANG=% LANGUAGE=:
around 'an unknown GIMBAL_BACKEND is ignored' env GIMBAL_BACKEND=nonsense
around 'an unknown GIMBAL_ISA too' env GIMBAL_ISA=nonsense
around 'odd OpenMP settings change nothing' env OMP_NUM_THREADS=-3 OMP_SCHEDULE=x GOMP_SPINCOUNT=y OMP_DYNAMIC=true OMP_THREAD_LIMIT=1
around 'nor does a terminal of no width' env TERM= COLUMNS=-1 LINES=x
around 'ignored signals are no trouble' bash -c 'trap "" PIPE CHLD TTOU; exec "$@"' -

# closed NAME REDIRECTION: descriptors that are not there must not become the clip's.
closed() {
    rm -f "$work/out/x.mp4"
    said=("${clip[@]}" "$2") why="status and bytes with $2"
    : > "$work/err"
    bash -c "exec \"\$@\" $2" - timeout -k 1 60 "$G" "${clip[@]}" -o "$work/out/x.mp4" > "$work/std" 2> "$work/err" < /dev/null
    status=$?
    [ $status -le 1 ] && { [ $status = 1 ] || same; } && { [ $status = 0 ] || [ ! -e "$work/out/x.mp4" ] || same; }
    ok "$1"
}
closed 'a closed stdin does no harm' '<&-'
closed 'a closed stdout is an error or nothing, and never part of the clip' '>&-'
closed 'a closed stderr does no harm' '2>&-'
closed 'nor do all three' '<&- >&- 2>&-'

# within NAME LIMITS: a clip or an error, no signal.
within() {
    rm -f "$work/out/x.mp4"
    said=(ulimit "$2" "${clip[@]}")
    TIMEFORMAT='%U %S'
    { time bash -c "ulimit $2 && exec \"\$@\"" - timeout -k 1 60 "$G" "${clip[@]}" -o "$work/out/x.mp4" > "$work/std" 2> "$work/err" < /dev/null
        status=$?; } 2> "$work/time"
    sound && { [ $status = 1 ] || same; }
    ok "$1"
}
within 'sixteen open files are enough, or an error' '-n 16'
within 'six are too few, and said to be' '-n 6'
within 'a small stack is enough' '-s 1024'
if [ -z "$sanitized" ]; then # address space is limited, which sanitizers do not survive
    ran=0
    for ((size = 200000; size <= 440000; size += 20000)); do
        said=(ulimit -v $size "${clip[@]}")
        TIMEFORMAT='%U %S'
        { time bash -c "ulimit -v $size && exec \"\$@\"" - timeout -k 1 60 "$G" "${clip[@]}" -o "$work/out/x.mp4" > "$work/std" 2> "$work/err" \
            < /dev/null; status=$?; } 2> "$work/time"
        [ $status = 127 ] && grep -q 'loading shared libraries' "$work/err" && continue # not ours to say
        ran=$((ran + 1))
        sound || break
    done
    sound && [ $ran -ge 3 ]
    ok 'whatever the limit of the address space: a clip or an error'
fi
within 'files may not grow beyond a block: an error' '-f 1'
why='files left' && [ $status = 1 ] && [ "$(ls -A "$work/out")" = plain.mp4 ]
ok 'and nothing is left of the clip'

mkdir "$work/gone" && cd "$work/gone" && rmdir "$work/gone"
around 'the current folder may be gone' env
run info x.mp4
sound && [ $status = 1 ]
ok 'a relative path in a folder that is gone is an error'
cd "$work/cwd" || exit 1
deep=$work/cwd
for _ in $(seq 18); do deep=$deep/$(head -c 220 /dev/zero | tr '\0' d); done
run generate "${TINY[@]}" "${SMALL[@]}" -o "$deep/x.mp4" && false || sound && run generate --model "$deep" "${SMALL[@]}" -o x.mp4 && false || sound &&
    run generate "${TINY[@]}" "${SMALL[@]}" -o "$work/out/$(head -c 255 /dev/zero | tr '\0' n).mp4" && false || sound && [ $status = 1 ]
ok 'paths that are too long are errors'
short=$work/cwd/$(head -c 247 /dev/zero | tr '\0' n).mp4
run "${clip[@]}" -o "$short"
sound && { [ $status = 1 ] || cmp -s "$short" "$work/out/plain.mp4"; }
ok 'the longest name that a folder takes is written or refused'

[ $failed = 0 ]
