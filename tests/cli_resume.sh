#!/usr/bin/env bash
# generate --resume, from outside: the real program is killed (kill -9) at random moments, again and again, until it ends by
# itself; its files must be those of a run that nobody disturbed.
# Usage: tests/cli_resume.sh build/release/gimbal [SEED]   (from the top of the checkout). Prints "ok N - name" lines.
set -u
G=$(realpath "${1:?usage: tests/cli_resume.sh PROGRAM [SEED]}")
seed=${2:-$(($$ % 32768))}
RANDOM=$seed
echo "# random moments from seed $seed"
kills=3
"$G" --version | grep -q sanitizers && kills=1 # each start takes seconds there
TINY="--model tests/golden/models/animatediff-tiny --motion tests/golden/models/animatediff-tiny-motion"
WORK="--prompt cat --negative blurry --frames 16 --width 120 --height 72 --seed 5" # half a second or more, not square
source tests/kit/cases.sh
trap 'kill -9 $pid 2> /dev/null; rm -rf "$work"' EXIT
pid=
export GIMBAL_RESUME_SECONDS=0 # a state after every step

run() { "$G" generate $TINY $WORK "$@" > "$work/std" 2> "$work/err"; }

# leftovers: what a kill leaves besides the state is a temporary file of the clip or the state, never OUT or a part of it
clean() { [ "$(ls -A "$out" | grep -cv '^\.clip\.[a-z0-9]*\.mp4$\|^\.\.clip\.mp4\.[a-z0-9]*\.resume$\|^\.\.clip\.mp4\.resume\.pass')" = "$1" ]; }

# whole NAME ARGS: the run that nobody disturbs; the seconds of its work in $took.
whole() {
    local name=$1
    shift
    fresh
    run "$@" --json --save-latents "$out/z.safetensors" -o "$out/clip.mp4" && [ "$(ls -A "$out" | wc -l)" = 2 ]
    ok "$name: undisturbed"
    took=$(grep -o '"seconds": *[0-9.e-]*' "$work/std" | head -n 1 | sed 's|.*: *||')
    mkdir -p "$work/want" && mv "$out"/* "$work/want"
}

# begun: waits until the process $pid has begun its work; false: it ended first.
begun() {
    local i
    for ((i = 0; i < 1000; i++)); do
        grep -q '^text\|^pass' "$work/err" && return 0
        kill -0 $pid 2> /dev/null || return 1
        sleep 0.01
    done
    return 1
}

# killed NAME KILLS ARGS: the same with --resume, killed KILLS times at random moments of its length.
killed() {
    local name=$1 kills=$2 k gone=0 half=0
    shift 2
    fresh
    for ((k = 0; k < kills; k++)); do
        "$G" generate $TINY $WORK "$@" --resume --save-latents "$out/z.safetensors" -o "$out/clip.mp4" > "$work/std" 2> "$work/err" &
        pid=$!
        begun && sleep "$(awk "BEGIN { print $took * $((RANDOM % 1000)) / 2000 }")"
        kill -9 $pid 2> /dev/null
        wait $pid 2> /dev/null
        [ $? = 137 ] || { fresh && continue; } # it was faster: from the beginning
        grep -q 'going on in pass' "$work/err" && gone=$((gone + 1))
        if [ -e "$out/clip.mp4" ]; then # the kill came between the clip's name and the end of the program
            cmp -s "$out/clip.mp4" "$work/want/clip.mp4" || half=$((half + 1))
            fresh
        elif [ -s "$work/std" ]; then
            half=$((half + 1))
        fi
    done
    [ "$half" = 0 ]
    ok "$name: a kill leaves the whole clip or none, and no result without one"
    run "$@" --resume --save-latents "$out/z.safetensors" -o "$out/clip.mp4" && [ "$(cat "$work/std")" = "$out/clip.mp4" ]
    ok "$name: the same command ends after $k kills, $gone of them in the middle"
    cmp -s "$out/clip.mp4" "$work/want/clip.mp4" && cmp -s "$out/z.safetensors" "$work/want/z.safetensors" && clean 2
    ok "$name: the bytes are those of the undisturbed run, and no state is left"
}

# state ARGS: a run killed as soon as its state is there.
state() {
    local i
    "$G" generate $TINY $WORK "$@" --resume -o "$out/clip.mp4" > "$work/std" 2> "$work/err" &
    pid=$!
    for ((i = 0; i < 500; i++)); do
        [ -e "$out/.clip.mp4.resume" ] && break
        kill -0 $pid 2> /dev/null || break
        sleep 0.01
    done
    kill -9 $pid 2> /dev/null
    wait $pid 2> /dev/null
    [ -e "$out/.clip.mp4.resume" ]
}

# ---- killed at random -----------------------------------------------------------------------------------------------

ETA="--steps 4 --eta 0.8 --cfg 3 --reinit freeinit:passes=2"
for rng in philox torch; do
    whole "eta, two passes, $rng" $ETA --rng $rng
    killed "eta, two passes, $rng" $kills $ETA --rng $rng
    [ $rng = torch ] || cp -r "$work/want" "$work/eta"
done
MULTI="--steps 6 --sampler dpmpp2m --spacing trailing --cfg 1"
whole "a multistep sampler" $MULTI
killed "a multistep sampler" $kills $MULTI

# ---- what a state is good for ---------------------------------------------------------------------------------------

fresh
state $ETA
ok "a state appears beside OUT while the clip is made"
run $ETA --resume --threads 1 -o "$out/clip.mp4" && grep -q 'going on in pass 1 of 2, after step [1-4] of 4: [1-4] of 8 network' "$work/err" &&
    cmp -s "$out/clip.mp4" "$work/eta/clip.mp4"
ok "it says where it goes on, and another number of threads changes no byte"
touch -d '2001-01-01' "$out/clip.mp4"
run $ETA --resume -o "$out/clip.mp4" && grep -q 'is there already' "$work/err" && [ "$(cat "$work/std")" = "$out/clip.mp4" ] &&
    [ "$(stat -c %Y "$out/clip.mp4")" -lt 1000000000 ]
ok "a clip that is there, made by the same settings, is not made again"
run $ETA --steps 2 --resume -o "$out/clip.mp4" && ! cmp -s "$out/clip.mp4" "$work/eta/clip.mp4"
ok "one of other settings is replaced"

fresh
state $ETA
run $ETA --resume --seed 6 -o "$out/clip.mp4"
[ $? = 2 ] && grep -q 'error: .*resume: the state of another run: --seed was "5", is "6"' "$work/err" &&
    [ -e "$out/.clip.mp4.resume" ] && [ ! -e "$out/clip.mp4" ]
ok "the state of another run is refused by name and kept"
head -c 5000 "$out/.clip.mp4.resume" > "$work/half" && cp "$work/half" "$out/.clip.mp4.resume"
run $ETA --resume -o "$out/clip.mp4"
[ $? = 1 ] && [ "$(grep -c '^gimbal: error: ' "$work/err")" = 1 ] && grep -q 'clip.mp4.resume' "$work/err" && [ ! -e "$out/clip.mp4" ]
ok "a damaged state is an error that names it"
run $ETA -o "$out/clip.mp4" && cmp -s "$out/clip.mp4" "$work/eta/clip.mp4" && [ -e "$out/.clip.mp4.resume" ]
ok "without --resume a state is left alone"

fresh
"$G" generate $TINY $WORK $ETA --resume -o "$out/clip.mp4" > "$work/std" 2> "$work/err" &
pid=$!
for ((i = 0; i < 500; i++)); do [ -e "$out/.clip.mp4.resume" ] && break || sleep 0.01; done
kill -INT $pid
wait $pid
[ $? = 130 ] && grep -q 'kept the state in .*clip.mp4.resume' "$work/err" && [ -e "$out/.clip.mp4.resume" ]
ok "after Ctrl-C the state is kept and named"
GIMBAL_RESUME_SECONDS=1000 run $ETA --resume -o "$out/clip.mp4" && cmp -s "$out/clip.mp4" "$work/eta/clip.mp4" && clean 1
ok "and the same command goes on from it"

fresh
GIMBAL_RESUME_SECONDS=1000 state $ETA # none within a pass: it is written when the first pass ends
run $ETA --resume -o "$out/clip.mp4" && grep -q 'in pass 1 of 2, after step 4 of 4: 4 of 8 network' "$work/err" &&
    cmp -s "$out/clip.mp4" "$work/eta/clip.mp4"
ok "a pass that has ended is kept at once"

mkdir "$work/passes" && fresh
run $ETA --save-passes "$work/passes" -o "$out/clip.mp4" && fresh
GIMBAL_RESUME_SECONDS=1000 state $ETA --save-passes "$out/passes"
run $ETA --resume --save-passes "$out/passes" -o "$out/clip.mp4" && cmp -s "$out/passes/pass1.mp4" "$work/passes/pass1.mp4" &&
    cmp -s "$out/passes/pass2.mp4" "$work/passes/pass2.mp4" && clean 2
ok "--save-passes shows passes that another process has made"

fresh
run --steps 2 --count 2 --resume -o "$out/clip.mp4" && rm "$out/clip-0002.mp4" && touch -d '2001-01-01' "$out/clip-0001.mp4" &&
    run --steps 2 --count 2 --resume -o "$out/clip.mp4" && [ "$(wc -l < "$work/std")" = 2 ] && [ -e "$out/clip-0002.mp4" ] &&
    [ "$(stat -c %Y "$out/clip-0001.mp4")" -lt 1000000000 ]
ok "of several clips only those that lack are made"

mkdir "$out/.clip.mp4.resume"
run --steps 2 --resume -o "$out/clip.mp4"
[ $? = 1 ] && grep -q 'clip.mp4.resume' "$work/err"
ok "a folder in the state's place is an error"

echo "$((n - failed)) passed, $failed failed"
[ "$failed" = 0 ]
