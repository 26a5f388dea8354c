#!/usr/bin/env bash
# The real program, from outside: exit status, what goes to stdout and stderr, which files are there afterwards.
# Usage: tests/cli.sh build/release/gimbal   (from the top of the checkout). Prints "ok N - name" lines.
set -u
G=$(realpath "${1:?usage: tests/cli.sh PROGRAM}")
TINY="--model tests/golden/models/animatediff-tiny --motion tests/golden/models/animatediff-tiny-motion"
TOY="--model models/toyworld"
SMALL="--prompt cat --frames 5 --width 72 --height 40 --steps 2" # odd, not square
RUNS=tests/golden/runs
source tests/kit/cases.sh
"$G" --version | grep -q sanitizers && sanitized=1 || sanitized=

# ---- how a case is told ---------------------------------------------------------------------------------------------

# run ARGS: stdout and stderr into files; the program's own status.
run() { "$G" "$@" > "$work/std" 2> "$work/err"; }

# refuses STATUS TEXT NAME ARGS: that status, one error line that holds TEXT, nothing on stdout, no file left.
refuses() {
    local want=$1 text=$2 name=$3 status
    shift 3
    fresh
    run "$@"
    status=$?
    [ $status = "$want" ] && [ "$(grep -c '^gimbal: error: ' "$work/err")" = 1 ] && grep -qF -- "$text" "$work/err" &&
        [ ! -s "$work/std" ] && [ -z "$(ls -A "$out")" ]
    ok "$name"
}

# st FILE HEADER BYTES: a safetensors file with this header, and that many zero bytes behind it.
st() {
    local size=${#2} i
    for i in 0 8 16 24 32 40 48 56; do printf "\\x$(printf %x $((size >> i & 255)))"; done > "$1"
    printf %s "$2" >> "$1"
    head -c "$3" /dev/zero >> "$1"
}

# broken NAME: a copy of the small model to damage.
broken() { rm -rf "$work/$1" && cp -r tests/golden/models/animatediff-tiny "$work/$1"; }
UNET=unet/diffusion_pytorch_model.safetensors
MOTION="--motion tests/golden/models/animatediff-tiny-motion"

# ---- help ----------------------------------------------------------------------------------------------------------------

run; [ $? = 2 ] && [ ! -s "$work/std" ] && [ "$(grep -c 'gimbal generate' "$work/err")" = 2 ] &&
    [ "$(wc -l < "$work/err")" -le 11 ]
ok 'alone it prints ten lines with two examples and exits 2'
run --help && [ ! -s "$work/err" ] && grep -q 'encode-text' "$work/std" && run -h
ok '--help and -h are on stdout and exit 0'
for command in generate decode info sheet tokenize encode-text; do
    run help $command && cp "$work/std" "$work/help" && run $command -h && cmp -s "$work/std" "$work/help" &&
        grep -q "^usage: gimbal $command" "$work/help"
    ok "gimbal help $command is gimbal $command -h"
done
run help noise && grep -q white "$work/std" && run help reinit && grep -q 'filter butterworth' "$work/std" &&
    run help sampler && grep -q ddim "$work/std"
ok 'gimbal help noise, reinit and sampler list the registries with their knobs'
run --version && grep -q '^gimbal [0-9]' "$work/std" && grep -q oneDNN "$work/std"
ok '--version names the version and the build'

# ---- wrong usage: exit 2, before any work -------------------------------------------------------------------------------------

O="-o $out/x.mp4"
refuses 2 "did you mean 'generate'?" 'an unknown subcommand gets the nearest name' generat
refuses 2 'did you mean' 'gimbal help with an unknown word gets the nearest name' help decod
refuses 2 "did you mean '--steps'?" 'an unknown flag gets the nearest name' generate $TINY $SMALL --stesp 3 $O
refuses 2 '-x: no such option' 'an unknown short flag is refused' generate $TINY $SMALL -x $O
refuses 2 '--model is missing' '--model is asked for' generate $SMALL $O
refuses 2 '--prompt is missing' '--prompt is asked for' generate $TINY $O
refuses 2 '-o is missing' '-o is asked for' generate $TINY $SMALL
refuses 2 '--steps wants a value' 'a flag without its value is refused' generate $TINY $O --prompt cat --steps
refuses 2 '"dog": unexpected argument' 'words beside the flags are refused' generate $TINY $SMALL dog $O
refuses 2 '--frames is 0' '--frames 0 is refused' generate $TINY $SMALL --frames 0 $O
refuses 2 '--steps is 0' '--steps 0 is refused' generate $TINY $SMALL --steps 0 $O
refuses 2 "--steps: '2x' is not a whole number" 'numbers refuse trailing text' generate $TINY $SMALL --steps 2x $O
refuses 2 '--steps is 99999999999999999999' 'numbers refuse overflow' generate $TINY $SMALL --steps 99999999999999999999 $O
refuses 2 '--cfg' '--cfg nan is refused' generate $TINY $SMALL --cfg nan $O
refuses 2 '--eta is -1' '--eta -1 is refused' generate $TINY $SMALL --eta -1 $O
refuses 2 '--fps' '--fps 0 is refused' generate $TINY $SMALL --fps 0 $O
refuses 2 'passes' 'passes=-1 is refused' generate $TINY $SMALL --reinit freeinit:passes=-1 $O
refuses 2 'did you mean' 'an unknown knob of a method gets the nearest name' generate $TINY $SMALL --reinit freeinit:pases=2 $O
refuses 2 'did you mean freeinit?' 'an unknown method gets the nearest name' generate $TINY $SMALL --reinit frenit $O
refuses 2 'noise prior' 'an unknown noise prior is refused' generate $TINY $SMALL --noise pink $O
refuses 2 'sampler' 'an unknown sampler is refused' generate $TINY $SMALL --sampler plms $O
refuses 2 "expected one of philox, torch" 'an unknown choice lists the choices' generate $TINY $SMALL --rng numpy $O
refuses 2 'multiple of 8' 'a width that the model cannot do is refused' generate $TINY $SMALL --width 60 $O
refuses 2 'at most' 'more frames than the motion module knows are refused' generate $TINY $SMALL --frames 4000 $O
refuses 2 'schedule' 'more steps than the schedule has are refused' generate $TINY $SMALL --steps 5000 $O
refuses 2 'not UTF-8' 'a prompt that is not UTF-8 is refused' generate $TINY $SMALL --prompt $'caf\xe9' $O
refuses 2 'both given' '--prompt and --prompts exclude each other' generate $TINY $SMALL --prompts /dev/null $O
refuses 2 'one pass' '--reinit-noise without later passes is refused' generate $TINY $SMALL --reinit-noise \
    $RUNS/ad_plain.in.safetensors $O
refuses 2 'one picture cannot hold 5 frames' 'a single .png is no place for a clip' generate $TINY $SMALL -o "$out/x.png"
refuses 2 'one %d' 'a pattern with another conversion is refused' generate $TINY $SMALL -o "$out/x%s.png"
refuses 2 '-o must name one picture' 'sheet writes one .png' sheet a.mp4 -o "$out/sheet.mp4"
refuses 2 'expected one' 'tokenize takes one text' tokenize $TOY a b

# ---- outputs that cannot be: found before the work ----------------------------------------------------------------------------------

refuses 1 'did you mean .mp4?' 'an unknown ending is refused, with the nearest' generate $TINY $SMALL -o "$out/x.mp5"
refuses 1 'no ending' 'an output without an ending is refused' generate $TINY $SMALL -o "$out/x"
refuses 1 'does not exist' 'an output in a folder that is not there is refused' generate $TINY $SMALL -o "$out/no/x.mp4"
refuses 1 'cannot be written' 'an output where nothing can be made is refused' generate $TINY $SMALL -o /proc/x.mp4
refuses 1 'cannot be written' 'so are latents' generate $TINY $SMALL $O --save-latents "$out/no/l.safetensors"
mkdir "$work/folder.mp4"
refuses 1 'is a folder' 'a folder is no output' generate $TINY $SMALL -o "$work/folder.mp4"

# ---- models that are none --------------------------------------------------------------------------------------------------------------

refuses 1 'needs a motion adapter' 'a missing motion adapter is named' generate --model tests/golden/models/animatediff-tiny $SMALL $O
refuses 1 "$work/none" 'a missing model folder is named' generate --model "$work/none" $SMALL $O
broken m && head -c 20000 "$work/m/$UNET" > "$work/cut" && cp "$work/cut" "$work/m/$UNET"
refuses 1 "$UNET" 'truncated weights are refused' generate --model "$work/m" $MOTION $SMALL $O
broken m && printf '\xff\xff\xff\xff\xff\xff\xff\x7f{}' > "$work/m/$UNET"
refuses 1 "$UNET" 'a header longer than the file is refused' generate --model "$work/m" $MOTION $SMALL $O
broken m && LC_ALL=C sed -i 's/"conv_in\.weight"/"conv_xx.weight"/' "$work/m/$UNET"
refuses 1 'conv_in.weight' 'a missing tensor is named' generate --model "$work/m" $MOTION $SMALL $O
broken m && LC_ALL=C sed -i 's/\[32,4,3,3\]/[4,32,3,3]/' "$work/m/$UNET"
refuses 1 'conv_in.weight' 'a tensor of the wrong shape is named' generate --model "$work/m" $MOTION $SMALL $O
broken m && echo '{"a":' > "$work/m/unet/config.json"
refuses 1 'unet/config.json' 'a damaged config is named' generate --model "$work/m" $MOTION $SMALL $O
broken m && { printf '[%.0s' $(seq 3000) && printf ']%.0s' $(seq 3000); } > "$work/m/unet/config.json"
refuses 1 'unet/config.json' 'a deeply nested config is refused' generate --model "$work/m" $MOTION $SMALL $O
broken m && sed -i 's/"act_fn": *"silu"/"act_fn": "mish"/' "$work/m/unet/config.json"
refuses 1 'act_fn' 'a config that asks for what is not there is refused by name' generate --model "$work/m" $MOTION $SMALL $O
st "$work/single.safetensors" '{"model.diffusion_model.input_blocks.0.0.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}' 8
refuses 1 'single' 'a single-file checkpoint is named as such' generate --model "$work/single.safetensors" $SMALL $O

hostile() { # NAME HEADER BYTES
    st "$work/h.safetensors" "$2" "$3"
    refuses 1 h.safetensors "latents: $1" generate $TINY $SMALL --latents "$work/h.safetensors" $O
}
hostile 'offsets past the end are refused' '{"latents":{"dtype":"F32","shape":[1,4,5,5,9],"data_offsets":[0,3600]}}' 100
hostile 'overflowing offsets are refused' '{"latents":{"dtype":"F32","shape":[4],"data_offsets":[0,18446744073709551615]}}' 16
hostile 'overlapping tensors are refused' \
    '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"latents":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}' 12
hostile 'negative shapes are refused' '{"latents":{"dtype":"F32","shape":[-1,4],"data_offsets":[0,16]}}' 16
hostile 'overflowing shapes are refused' \
    '{"latents":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,16]}}' 16
hostile 'unknown types are refused' '{"latents":{"dtype":"F31","shape":[4],"data_offsets":[0,16]}}' 16
hostile 'types that are no numbers to us are refused' '{"latents":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}}' 16
hostile 'duplicate names are refused' \
    '{"latents":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"latents":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}' 16
hostile 'a file without the tensor names what it has' '{"other":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}' 16
hostile 'a wrong shape is refused with both shapes' '{"latents":{"dtype":"F32","shape":[1,4,1,1,1],"data_offsets":[0,16]}}' 16
refuses 1 'pass3' 'too few fresh noises are refused' generate $TINY $SMALL --frames 8 --width 64 --height 64 \
    --reinit freeinit:passes=4 --reinit-noise $RUNS/ad_freeinit_ideal.in.safetensors $O
refuses 1 'not a clip' 'what is no clip cannot be made again' generate --again README.md $O
refuses 1 'not a clip' 'what is no clip cannot be drawn' sheet tests/cli.sh -o "$out/s.png"
refuses 1 'no such file' 'info on nothing says so' info "$out/nothing.mp4"
if [ -z "$sanitized" ]; then # address space is limited, which sanitizers do not survive
    (ulimit -v 4000000 && refuses 1 MiB memory generate $TOY $SMALL --frames 32 --width 8192 --height 8192 $O) | grep -q '^ok'
    ok 'too little memory is refused with numbers'
fi

# ---- it makes clips ------------------------------------------------------------------------------------------------------------------------

fresh
run generate $TINY $SMALL -o "$out/a.mp4" && [ "$(cat "$work/std")" = "$out/a.mp4" ] && [ "$(ls -A "$out")" = a.mp4 ] &&
    grep -q '1 pass, 2 network calls' "$work/err" && grep -q 'pass 1/1, step 2/2' "$work/err"
ok 'generate prints the output alone on stdout, cost and steps on stderr'
cp "$out/a.mp4" "$work/a.mp4"
run generate $TINY $SMALL -o "$out/q.mp4" --quiet && [ ! -s "$work/err" ] && cmp -s "$out/q.mp4" "$work/a.mp4"
ok '--quiet is quiet, and the same settings give the same bytes'
run generate --again "$work/a.mp4" --output="$out/b.mp4" --quiet && cmp -s "$out/b.mp4" "$work/a.mp4"
ok '--again makes the same bytes'
run generate --again "$work/a.mp4" --seed 9 -o "$out/c.mp4" --quiet && ! cmp -s "$out/c.mp4" "$work/a.mp4"
ok 'flags win over the recipe of --again'
run generate --again "$work/a.mp4" $TOY --steps 1 --frames 2 -o "$out/t.mp4" && grep -q 'another model' "$work/err"
ok '--again with another model warns'
run generate $TINY $SMALL --threads 1 -o "$out/t1.mp4" --quiet && run generate $TINY $SMALL --threads 2 -o "$out/t2.mp4" --quiet &&
    run generate $TINY $SMALL --threads 3 -o "$out/t3.mp4" --quiet && cmp -s "$out/t1.mp4" "$out/t2.mp4" &&
    cmp -s "$out/t1.mp4" "$out/t3.mp4"
ok 'one, two and three threads make the same bytes'

for name in x.mp4 x.webm x.gif x.webp x.avi x.y4m x%02d.png x%02d.jpg x.safetensors; do
    fresh
    again=$(echo "$name" | sed s/x/y/)
    first=$(printf "$name" 0) second=$(printf "$again" 0)
    run generate $TINY $SMALL -o "$out/$name" --quiet --fps 6 && run info "$out/$name" && grep -q 'prompt: cat' "$work/std" &&
        run generate --again "$out/$name" -o "$out/$again" --quiet && cmp -s "$out/$first" "$out/$second"
    ok "$name: info shows its recipe and --again makes the same bytes"
    [ "$name" = x.safetensors ] && continue
    run sheet "$out/$name" -o "$out/sheet.png" --columns 3 && run info "$out/sheet.png" && grep -q 'width: 232' "$work/std"
    ok "$name can be read back into a sheet"
done

fresh
mkdir "$out/f" && run generate $TINY $SMALL -o "$out/f/x%d.png" --quiet && run info "$out/f" && grep -q 'frames: 5' "$work/std" &&
    grep -q 'prompt: cat' "$work/std" && run sheet "$out/f" -o "$out/sheet.png" && run generate --again "$out/f" -o "$out/y%d.png" \
    --quiet && cmp -s "$out/f/x4.png" "$out/y4.png"
ok 'a folder of pictures is a clip: info, sheet and --again take it'

fresh
run generate $TINY $SMALL -o "$out/g.safetensors" --save-latents "$out/l.safetensors" --quiet &&
    run decode $TINY "$out/l.safetensors" -o "$out/d.safetensors" --quiet && cmp -s "$out/g.safetensors" "$out/d.safetensors"
ok 'decoding saved latents gives the frames of generate'
run info "$out/l.safetensors" --json && grep -q '"shape":\[1,4,5,5,9\]' "$work/std"
ok 'saved latents are [1,4,F,h,w]'
run generate $TINY $SMALL --frames 8 --width 64 --height 64 --reinit freeinit:passes=3,compat=1 --latents $RUNS/ad_freeinit_ideal.in.safetensors \
    --reinit-noise $RUNS/ad_freeinit_ideal.in.safetensors -o "$out/r.gif" --quiet && run generate --again "$out/r.gif" -o "$out/s.gif" \
    --quiet && cmp -s "$out/r.gif" "$out/s.gif"
ok 'tensors from files are part of the recipe'

fresh
run generate $TINY $SMALL --reinit freeinit:passes=3 --save-passes "$out/p" -o "$out/x.mp4" --json &&
    [ "$(ls "$out/p" | tr '\n' ' ')" = 'pass1.mp4 pass2.mp4 pass3.mp4 ' ] && cmp -s "$out/p/pass3.mp4" "$out/x.mp4" &&
    ! cmp -s "$out/p/pass1.mp4" "$out/x.mp4"
ok '--save-passes writes the clip of every pass, the last one the same as OUT'
[ "$(wc -l < "$work/std")" = 1 ] && grep -q '^{"schema":1,.*"passes":3.*"peak_anon_bytes":[1-9].*"reinit":"freeinit:passes=3".*}$' "$work/std"
ok '--json prints one object on one line, with schema number, figures and settings'

fresh
run generate $TINY $SMALL --dry-run -o "$out/x.mp4" && [ -z "$(ls -A "$out")" ] && grep -q 'anon_bytes: [1-9]' "$work/std" &&
    run generate $TINY $SMALL --dry-run --json -o "$out/x.mp4" && grep -q '^{"schema":1,"dry_run":true,.*"calls":2,.*}$' "$work/std" &&
    [ -z "$(ls -A "$out")" ]
ok '--dry-run tells settings and cost and writes nothing'
refuses 1 'does not exist' '--dry-run finds what the real run would find' generate $TINY $SMALL --dry-run -o "$out/no/x.mp4"

fresh
run generate $TINY $SMALL --count 2 --seed 4 -o "$out/x.mp4" --quiet && run generate $TINY $SMALL --seed 5 -o "$out/y.mp4" --quiet &&
    cmp -s "$out/x-0002.mp4" "$out/y.mp4" && [ "$(ls "$out" | tr '\n' ' ')" = 'x-0001.mp4 x-0002.mp4 y.mp4 ' ]
ok '--count makes clips with the seeds that follow'
printf 'cat\n\ndog\n' > "$work/prompts"
run generate $TINY $SMALL --prompts "$work/prompts" -o "$out/z%02d.mp4" --quiet
[ $? = 2 ] && run generate $TINY --frames 2 --width 40 --height 24 --steps 1 --prompts "$work/prompts" -o "$out/z%02d.mp4" --quiet &&
    [ -s "$out/z01.mp4" ] && [ -s "$out/z02.mp4" ] && [ ! -e "$out/z03.mp4" ]
ok '--prompts makes one clip a line'
run generate $TINY $SMALL --prompt "$(yes cat | head -n 100 | tr '\n' ' ')" --dry-run -o "$out/x.mp4" &&
    grep -q 'warning: the prompt is too long.* tokens were dropped' "$work/err"
ok 'a prompt longer than the context is a warning'
run generate $TINY -o "$out/m.mp4" --frames 2 --width 40 --height 24 --steps 1 --quiet --prompt -- && [ -s "$out/m.mp4" ] &&
    run tokenize $TOY -- --help && [ "$(wc -w < "$work/std")" = 77 ]
ok '-- ends the flags, and a value may begin with dashes'

# ---- the small ones -----------------------------------------------------------------------------------------------------------------------------

run tokenize $TOY 'a large red circle' && [ "$(wc -w < "$work/std")" = 77 ] && [ "$(wc -l < "$work/std")" = 1 ]
ok 'tokenize prints 77 ids on one line'
fresh
run encode-text $TOY --prompt 'a red circle' --save "$out/c.safetensors" && run info "$out/c.safetensors" --json &&
    grep -q '"name":"context".*"shape":\[1,77,128\]' "$work/std"
ok 'encode-text writes the context [1,77,D]'
run info models/toyworld && grep -q 'family: animatediff' "$work/std" && grep -q 'identity: [0-9a-f]\{64\}' "$work/std"
ok 'info describes a model folder'
fresh
run generate $TOY --prompt 'a large red circle' --steps 2 --reinit freeinit:passes=2,filter=gaussian -o "$out/toy.mp4" &&
    run sheet "$out/toy.mp4" "$work/a.mp4" -o "$out/s.png" && run info "$out/s.png" && grep -q 'width: 1060' "$work/std"
ok 'the bundled model makes a clip, and a sheet holds clips of two sizes'
"$G" --help | head -n 1 > /dev/null
[ "${PIPESTATUS[0]}" -lt 128 ]
ok 'a reader that goes away is no crash'
"$G" --help > /dev/full 2> "$work/err"
[ $? = 1 ] && grep -q 'cannot be written' "$work/err"
ok 'a full standard output is an error'

# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------------------------------------

# interrupt SIGNAL TEXT ARGS: sends it once TEXT is on stderr; status in $status, milliseconds in $took.
interrupt() {
    local signal=$1 text=$2 pid started
    shift 2
    : > "$work/err"
    (trap - INT; exec "$G" "$@" > "$work/std" 2> "$work/err") &
    pid=$!
    for _ in $(seq 600); do grep -qF "$text" "$work/err" && break || sleep 0.05; done
    started=$(date +%s%N)
    kill -"$signal" $pid
    wait $pid
    status=$?
    took=$((($(date +%s%N) - started) / 1000000))
}
limit=$([ -n "$sanitized" ] && echo 20000 || echo 2000)
LONG="--prompt x --reinit freeinit:passes=3 --steps 25"
fresh
interrupt INT 'step 2/25' generate $TOY $LONG -o "$out/x.mp4" --save-latents "$out/l.safetensors"
[ $status = 130 ] && [ $took -lt $limit ] && [ -z "$(ls -A "$out")" ] && [ ! -s "$work/std" ] &&
    grep -q 'cancelled in pass 1 of 3.*nothing was kept' "$work/err"
ok 'Ctrl-C ends a run within two seconds, with 130 and without half files'
fresh
interrupt TERM 'pass 2/3, step 1' generate $TOY --prompt x --reinit freeinit:passes=3 --steps 3 --save-passes "$out/p" -o "$out/%02d.png"
[ $status = 143 ] && [ $took -lt $limit ] && [ "$(find "$out" -type f)" = "$out/p/pass1.safetensors" ] &&
    grep -q 'kept the latents of 1 finished pass' "$work/err" && run decode $TOY "$out/p/pass1.safetensors" -o "$out/p.gif" --quiet
ok 'finished passes are kept as latents, which decode turns into clips'

[ $failed = 0 ]
