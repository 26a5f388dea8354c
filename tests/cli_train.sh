#!/usr/bin/env bash
# gimbal train, from outside: what it refuses, what comes out, a full disk, Ctrl-C, kill -9 at random moments, several processes.
# Usage: tests/cli_train.sh build/release/gimbal [SEED]   (from the top of the checkout). Prints "ok N - name" lines.
set -u
G=$(realpath "${1:?usage: tests/cli_train.sh PROGRAM [SEED]}")
seed=${2:-$(($$ % 32768))}
RANDOM=$seed
echo "# random moments from seed $seed"
"$G" --version | grep -q sanitizers && sanitized=1 || sanitized=
MODEL=tests/golden/models/animatediff-tiny
TINY="--model $MODEL --motion tests/golden/models/animatediff-tiny-motion"
SMALL="--frames 5 --width 40 --height 24 --batch 2 --validation 2" # odd, not square
TOY="--data toyworld:count=12"
source tests/kit/cases.sh
pid=
trap '[ -z "$pid" ] || kill -9 $pid 2> /dev/null; rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # containers are root's

# train ARGS: stdout and stderr into files; the program's own status.
train() { "$G" train "$@" > "$work/std" 2> "$work/err"; }
# learn ARGS: the same with the small model and data, into $out/run.
learn() { train $TINY $SMALL $TOY -o "$out/run" "$@"; }

# refuses STATUS TEXT NAME ARGS: that status, one error line that holds TEXT, nothing on stdout, no checkpoint.
refuses() {
    local want=$1 text=$2 name=$3 status
    shift 3
    fresh
    train "$@"
    status=$?
    [ $status = "$want" ] && [ "$(grep -c '^gimbal: error: ' "$work/err")" = 1 ] && grep -qF -- "$text" "$work/err" &&
        [ ! -s "$work/std" ] && ! ls -d "$out"/run/step-* > /dev/null 2>&1
    ok "$name"
}

# numbers FILE KEY: of the log's steps, one a line.
numbers() { grep '"what":"step"' "$1" | grep -o "\"$2\":[^,}]*" | cut -d: -f2; }
# near A B: the same numbers within 1e-5 of their size, as many on both sides.
near() { [ -s "$1" ] && paste "$1" "$2" | awk 'NF != 2 { bad = 1 } { d = $1 - $2; if (d * d > 1e-10 * $1 * $1) bad = 1 } END { exit bad }'; }

# ---- refused before any work ------------------------------------------------------------------------------------------

RUN="-o $out/run"
train --help && grep -q '^usage: gimbal train' "$work/std" && grep -q -- '--caption-dropout' "$work/std"
ok '--help lists the flags of the program and of the library'
refuses 2 '--model is missing' '--model is asked for' $TOY $RUN
refuses 2 '--data is missing' '--data is asked for' $TINY $RUN
refuses 2 '-o is missing' '-o is asked for' $TINY $TOY
refuses 2 "did you mean '--steps'?" 'an unknown flag gets the nearest name' $TINY $TOY $RUN --stepz 3
refuses 2 "no recipe 'motoin'" 'an unknown recipe is named' $TINY $TOY $RUN --recipe motoin
refuses 2 '--lr' 'a learning rate that is no number' $TINY $TOY $RUN --lr nan
refuses 2 '--steps is 0' 'no steps' $TINY $TOY $RUN --steps 0
refuses 2 '--lambda is 1, expected 0 to' 'a share of base noise of 1' $TINY $TOY $RUN --recipe videofusion --lambda 1
refuses 2 '--lambda is -0.1, expected 0 to' 'a share of base noise below 0' $TINY $TOY $RUN --recipe videofusion --lambda -0.1
refuses 2 "matches 'nothing*'" '--train that matches nothing' $TINY $SMALL $TOY $RUN --train 'nothing*'
refuses 2 '--frames is 99' 'more frames than the motion modules know' $TINY $TOY $RUN --frames 99
refuses 2 'multiples of 8' 'a size that cannot be' $TINY $TOY $RUN --width 41
refuses 2 '--batch is 3' 'a batch that micro-batches do not make up' $TINY $TOY $RUN --batch 3 --micro 2
refuses 2 'no prompt to make samples of' '--sample-every without a prompt' $TINY $TOY $RUN --sample-every 3
refuses 1 'no-such-prompts' 'prompts that are not there' $TINY $TOY $RUN --sample-prompts "$work/no-such-prompts"
refuses 2 'no-such-place' 'data that is not there' $TINY $RUN --data "$work/no-such-place"
refuses 1 'no-such-model' 'a model that is not there' --model "$work/no-such-model" $TOY $RUN
refuses 2 '--page stands alone' '--page with other flags' --page "$out/run" --steps 3
touch "$work/file"
refuses 1 'is a file' 'an output folder that is a file' $TINY $SMALL $TOY -o "$work/file"

# ---- folders of clips -------------------------------------------------------------------------------------------------

data=$work/data
mkdir "$data" "$work/nothing"
for i in 1 2 3 4; do
    "$G" generate $TINY --prompt cat --frames 6 --steps 1 --width 40 --height 24 --seed $i -q -o "$data/$i.mp4" > /dev/null
    echo "clip $i" > "$data/$i.txt"
done
refuses 1 'no clips in it' 'an empty folder' $TINY $SMALL $RUN --data "$work/nothing"
if command -v setpriv > /dev/null && [ "$(id -u)" = 0 ]; then
    chmod 700 "$work/nothing" && chmod 755 "$work" && fresh && chmod 777 "$out"
    setpriv --reuid 65534 --regid 65534 --clear-groups "$G" train $TINY $SMALL $RUN --data "$work/nothing" > "$work/std" 2> "$work/err"
    [ $? = 1 ] && grep -q 'Permission denied' "$work/err"
    ok 'a folder that may not be read'
else
    skip 'a folder that may not be read' 'needs root and setpriv to become somebody else'
fi
fresh
learn --data "$data" --steps 2 --validation 1 && [ -e "$out/run/step-00000002/manifest.json" ]
ok 'clips with words beside them are learnt from'
refuses 2 'stride 8' 'clips shorter than the stride asks' $TINY $SMALL $RUN --data "$data" --frame-stride 8
rm "$data/2.txt" && printf 'caf\351\n' > "$data/3.txt" && fresh
learn --data "$data" --steps 2 && grep -q '2.mp4.*no caption' "$work/err" && grep -q '3.mp4.*not UTF-8' "$work/err"
ok 'clips without a caption, or with one that is not UTF-8, are named and left out'
echo nonsense > "$data/4.mp4" && fresh
learn --data "$data" --steps 2 --validation 0 && grep -q '4.mp4' "$work/err"
ok 'a clip that cannot be decoded is named, and another taken'
echo nonsense > "$data/1.mp4"
refuses 1 'can be read' 'no clip that can be decoded' $TINY $SMALL $RUN --data "$data"
rm "$data"/*.txt
refuses 1 'can be used' 'no clip with a caption' $TINY $SMALL $RUN --data "$data"

# ---- what comes out ---------------------------------------------------------------------------------------------------

fresh
train $TINY $SMALL --dry-run --json && [ -z "$(ls -A "$out")" ] && grep -q '"trained": *[1-9][0-9]*' "$work/std" &&
    grep -q '"recompute_bytes": *[1-9]' "$work/std" && train $TINY $SMALL --dry-run && grep -q '^predicted peak ' "$work/std"
ok 'the dry run says what it would take, and makes nothing'
fresh
learn --steps 6 --save-every 2 --validate-every 3 --keep 2 --sample-prompt cat --sample-every 4 &&
    [ "$(cat "$work/std")" = "$out/run/step-00000006" ] && [ "$(ls -d "$out"/run/step-* | wc -l)" = 2 ]
ok 'a run ends with the last checkpoint on stdout, and keeps as many as it was told'
log=$out/run/log.jsonl
[ "$(numbers "$log" step | tr '\n' ' ')" = '1 2 3 4 5 6 ' ] && [ "$(grep -c '"what":"valid"' "$log")" = 3 ] &&
    [ "$(grep -c '"what":"saved"' "$log")" = 3 ] && [ "$(grep -c '"what":"begin"' "$log")" = 1 ]
ok 'the log has every step, validation and checkpoint'
[ "$(ls "$out/run/samples" | tr '\n' ' ')" = 'step-00000004-1.mp4 step-00000004.png ' ]
ok 'samples are made when it is time for them'
! grep -q 'http' "$out/run/index.html" && [ "$(grep -c '<svg' "$out/run/index.html")" -ge 5 ] &&
    grep -q 'data:image/png' "$out/run/index.html" && grep -q 'caption-dropout' "$out/run/index.html"
ok 'the page has curves, samples and settings in itself'
cp "$out/run/index.html" "$work/page" && rm "$out/run/index.html" && train --page "$out/run" &&
    [ "$(cat "$work/std")" = "$out/run/index.html" ] && cmp -s "$work/page" "$out/run/index.html"
ok '--page makes it anew from the log'
echo '{"what":"step","step":"x","loss":[1]}' >> "$log" && printf '\377\000{"torn' >> "$log" && train --page "$out/run" && [ -s "$out/run/index.html" ]
ok 'a damaged log is no obstacle'
train --page "$work/nothing"
[ $? = 1 ] && grep -q 'log.jsonl' "$work/err" && [ -z "$(ls -A "$work/nothing")" ]
ok 'a folder without a log is'
"$G" generate --model "$out/run/model" --prompt cat --frames 5 --width 40 --height 24 --seed 1 -q -o "$work/again.mp4" > "$work/std" 2> "$work/err" &&
    learn --resume --allow-change 1 --steps 8 --save-every 2 --keep 2 --sample-prompt cat &&
    [ "$(readlink "$out/run/model/motion_adapter")" = ../step-00000008/ema/motion_adapter ] && ! cmp -s "$work/again.mp4" "$out/run/samples/step-00000008-1.mp4"
ok 'OUT/model is a model folder, of the newest checkpoint'
[ "$(numbers "$log" step | tr '\n' ' ')" = '1 2 3 4 5 6 7 8 ' ] && [ "$(grep -c '"what":"begin"' "$log")" = 2 ] && grep -q 'going on after step 6' "$work/err"
ok 'a resumed run goes on in the same log, without what was damaged'
fresh && mkdir "$out/run" && touch "$out/run/samples"
learn --steps 2 --save-every 1 --sample-prompt cat && [ "$(grep -c 'warning: no samples' "$work/err")" = 1 ] && [ -e "$out/run/step-00000002/manifest.json" ]
ok 'samples that cannot be made are said once, and learning goes on'
fresh
learn --steps 3 --json --quiet && [ ! -s "$work/err" ] && [ "$(grep -c '^{"what":' "$work/std")" = "$(wc -l < "$work/std")" ] &&
    grep -q '"what":"step","step":3' "$work/std" && tail -n 1 "$work/std" | grep -q '"what":"end","step":3'
ok '--json gives every event as an object, --quiet no words'
fresh
mkdir "$work/new" && cp tests/golden/models/animatediff-tiny-motion/config.json "$work/new"
train --model $MODEL --motion "$work/new" $SMALL $TOY --train '*' --steps 1 -o "$out/run" && grep -q 'begin with random values' "$work/err" &&
    train --model $MODEL --motion "$work/new" $SMALL $TOY --train '*' --steps 2 --allow-change 1 --resume -o "$out/run" &&
    [ -e "$out/run/step-00000002/ema/motion_adapter/diffusion_pytorch_model.safetensors" ] && [ -e "$out/run/step-00000002/ema/unet/config.json" ] &&
    "$G" generate --model "$out/run/model" --prompt cat --frames 5 --width 40 --height 24 --steps 2 -q -o "$work/new.mp4" > "$work/std" 2> "$work/err"
ok 'motion modules that an adapter has no weights of begin anew, learn, and come out'

# ---- not finite, no room, another run ---------------------------------------------------------------------------------

fresh
learn --steps 2 --save-every 2 && learn --resume --steps 9 --lr 1e30 --allow-change 1
[ $? = 1 ] && grep -q '^gimbal: error: step [3-9], toyworld scene [0-9]* (t [0-9]*): ' "$work/err" && [ -e "$out/run/step-00000002/manifest.json" ] &&
    [ "$(ls -d "$out"/run/step-* | wc -l)" = 1 ]
ok 'a loss that is not finite ends it, naming step and clip; the checkpoint stays'
fresh
(
    ulimit -f 1500
    learn --steps 4 --save-every 2 --cache none
)
[ $? = 1 ] && grep -q 'note: .*File too large' "$work/err" && grep -q '^step 4/4' "$work/err" && grep -q '^gimbal: error: .*File too large' "$work/err" &&
    [ -z "$(ls -d "$out"/run/step-* 2> /dev/null)" ]
ok 'where a checkpoint cannot be written training goes on and says so; the last failure is the run'"'"'s'
learn --steps 4 --save-every 2 --cache none --resume && [ -e "$out/run/step-00000004/manifest.json" ]
ok 'with room again the same command begins anew'
learn --steps 4
[ $? = 2 ] && grep -q 'holds 2 checkpoints already' "$work/err"
ok 'a folder that holds checkpoints is not begun in without --resume'
learn --steps 4 --resume && [ "$(cat "$work/std")" = "$out/run" ]
ok 'a finished run has nothing left to do'
learn --steps 4 --resume --recipe image --frames 1
[ $? = 2 ] && grep -q 'recipe is "image", the checkpoint.s "motion"' "$work/err"
ok 'a run of another recipe is not gone on with'
learn --steps 6 --resume --data toyworld:count=13
[ $? = 2 ] && grep -q 'allow-change' "$work/err" && learn --steps 6 --resume --data toyworld:count=13 --allow-change 1 && grep -q 'note: .*changed' "$work/err"
ok 'other data are refused unless they are allowed, and then noted'
head -c 1000 "$out/run/step-00000006/state.safetensors" > "$work/half" && cp "$work/half" "$out/run/step-00000006/state.safetensors"
learn --steps 6 --resume --data toyworld:count=13 --allow-change 1 && grep -q 'step-00000006 is not whole' "$work/err" && grep -q 'going on after step 4' "$work/err"
ok 'a damaged checkpoint is named, and the one before it taken'

# ---- stopped and killed -----------------------------------------------------------------------------------------------

LONG="--steps 60 --save-every 7 --validate-every 20 --keep 0"
[ $sanitized ] && LONG="--steps 20 --save-every 4 --validate-every 10 --keep 0"
fresh
learn $LONG --cache none && mv "$out/run" "$work/whole"
ok 'a run that nobody disturbs'
last=$(ls -d "$work"/whole/step-* | tail -n 1)
same() { diff -r "$last" "$out/run/${last##*/}" > "$work/log"; }

# begun N: waits until the process $pid has made N steps; false: it ended first.
begun() {
    local i
    for ((i = 0; i < 3000; i++)); do
        [ "$(grep -c '"what":"step"' "$out/run/log.jsonl" 2> /dev/null)" -ge "$1" ] 2> /dev/null && return 0
        kill -0 $pid 2> /dev/null || return 1
        sleep 0.01
    done
    return 1
}
# start ARGS: in the background, as $pid.
start() {
    "$G" train $TINY $SMALL $TOY -o "$out/run" "$@" > "$work/std" 2> "$work/err" &
    pid=$!
}
for signal in INT USR1; do
    fresh
    start $LONG --cache none
    begun 3 && kill -$signal $pid
    wait $pid
    status=$? pid=
    [ $status = $((128 + $(kill -l $signal))) ] && grep -q '^gimbal: stopped after step [0-9]* of [0-9]*; kept .*/step-' "$work/err" &&
        grep -q 'hint: .*--resume' "$work/err"
    ok "SIG$signal ends it after the step, with a checkpoint and a word on how to go on"
    learn $LONG --cache none --resume && same
    ok "SIG$signal: the same command with --resume ends with the same bytes"
done
fresh
kills=6
[ $sanitized ] && kills=2
for ((k = 0; k < kills; k++)); do
    start $LONG --resume
    begun $((RANDOM % 50)) && sleep "$(awk "BEGIN { print $((RANDOM % 200)) / 1000 }")"
    kill -9 $pid 2> /dev/null
    wait $pid 2> /dev/null
    pid=
done
learn $LONG --resume && same
ok "after $kills kills at random moments the bytes are those of the undisturbed run"
[ "$(numbers "$out/run/log.jsonl" step)" = "$(numbers "$work/whole/log.jsonl" step)" ] && [ "$(numbers "$out/run/log.jsonl" loss)" = "$(numbers "$work/whole/log.jsonl" loss)" ]
ok 'and so is the log, step by step'
[ "$(ls -A "$out/run" | grep -cv '^step-\|^cache$\|^index.html$\|^log.jsonl$\|^model$')" = 0 ]
ok 'nothing half-made is left'
fresh
learn $LONG --threads 1 && same
ok 'one thread makes the same bytes'

# ---- several processes ------------------------------------------------------------------------------------------------

if ! command -v mpirun > /dev/null || ! "$G" --version --json | grep -q '"MPI"'; then
    skip 'several processes' 'mpirun is not installed, or the build has no MPI'
    echo "$((n - failed)) passed, $failed failed"
    [ "$failed" = 0 ]
    exit
fi
# ranks N ARGS: N processes. What MPI itself leaks at its end is not ours.
ranks() {
    local n=$1
    shift
    ASAN_OPTIONS=detect_leaks=0 timeout 120 mpirun --oversubscribe -n "$n" "$G" train $TINY $SMALL $TOY -o "$out/run" "$@" > "$work/std" 2> "$work/err"
}
TEN="--steps 10 --save-every 5 --validate-every 5"
fresh
learn $TEN && mv "$out/run" "$work/one" && ranks 2 $TEN && mv "$out/run" "$work/two" && ranks 2 $TEN && mv "$out/run" "$work/again"
ok 'two processes learn together'
for key in loss norm; do
    numbers "$work/one/log.jsonl" $key > "$work/a" && numbers "$work/two/log.jsonl" $key > "$work/b" && near "$work/a" "$work/b" || break
done
[ $key = norm ] && near "$work/a" "$work/b"
ok 'what two learn is what one learns, to rounding'
diff -r "$work/two/step-00000010" "$work/again/step-00000010" > "$work/log"
ok 'twice the same two make the same bytes'
[ "$(grep -c '^step 10/10' "$work/err")" = 1 ] && [ "$(wc -l < "$work/std")" = 1 ] && [ "$(numbers "$work/two/log.jsonl" step | wc -l)" = 10 ]
ok 'one of them speaks'
rm -r "$work/two/step-00000010" && mv "$work/two" "$out/run" && learn $TEN --resume && grep -q 'going on after step 5' "$work/err" &&
    numbers "$out/run/log.jsonl" loss > "$work/b" && numbers "$work/one/log.jsonl" loss > "$work/a" && near "$work/a" "$work/b"
ok 'one process goes on where two were'
fresh
ranks 2 $TEN --lr 1e30
[ $? = 1 ] && [ "$(grep -c '^gimbal: error: .*step [0-9]*, toyworld scene' "$work/err")" = 1 ] && [ "$(grep -c '^gimbal: error' "$work/err")" = 1 ]
ok 'a loss that is not finite anywhere ends all, with one message'
ranks 2 $TEN --batch 3
[ $? = 2 ] && [ "$(grep -c '^gimbal: error: --batch is 3, expected a multiple of 2' "$work/err")" = 1 ] && [ "$(grep -c '^gimbal: error' "$work/err")" = 1 ]
ok 'a setting that is wrong is said once'
ranks 2 $TEN --data "$data"
[ $? = 1 ] && [ "$(grep -c 'warning: .*left out' "$work/err")" = 4 ] && [ "$(grep -c '^gimbal: error: .*can be used' "$work/err")" = 1 ]
ok 'and so are clips that cannot be used'

echo "$((n - failed)) passed, $failed failed"
[ "$failed" = 0 ]
