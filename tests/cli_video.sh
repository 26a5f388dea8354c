#!/usr/bin/env bash
# gimbal generate --video, from outside: what is read, what is refused, what a recipe keeps, what it costs.
# Usage: tests/cli_video.sh build/release/gimbal   (from the top of the checkout). Prints "ok N - name" lines.
set -u
G=$(realpath "${1:?usage: tests/cli_video.sh PROGRAM}")
TINY="--model tests/golden/models/animatediff-tiny --motion tests/golden/models/animatediff-tiny-motion"
SMALL="--prompt cat --width 72 --height 40 --steps 5" # odd, not square
source tests/kit/cases.sh

# run ARGS: stdout and stderr into files; the program's own status.
run() { timeout 120 "$G" "$@" > "$work/std" 2> "$work/err"; }

# refuses STATUS TEXT NAME ARGS: that status, one error line, TEXT on stderr, nothing on stdout, no file left.
refuses() {
    local want=$1 text=$2 name=$3 status
    shift 3
    fresh
    run generate $TINY $SMALL -o "$out/x.mp4" "$@"
    status=$?
    [ $status = "$want" ] && [ "$(grep -c '^gimbal: error: ' "$work/err")" = 1 ] && grep -qF -- "$text" "$work/err" &&
        [ ! -s "$work/std" ] && [ -z "$(ls -A "$out")" ]
    ok "$name"
}

# y4m FILE FRAMES WIDTH HEIGHT FPS: a clip whose grey runs from frame to frame.
y4m() {
    local i
    printf 'YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C444\n' "$3" "$4" "$5" > "$1"
    for i in $(seq "$2"); do
        printf 'FRAME\n'
        head -c $(($3 * $4)) /dev/zero | tr '\0' "\\$(printf %o $((40 + 6 * i)))"
        head -c $((2 * $3 * $4)) /dev/zero | tr '\0' '\200'
    done >> "$1"
}

clip=$work/clip.y4m
y4m "$clip" 5 72 40 12
long=$work/long.y4m
y4m "$long" 30 31 29 25

# ---- what is refused, before any work ---------------------------------------------------------------------------------

refuses 2 '--strength says how much of a clip' '--strength without --video is refused' --strength 0.5
refuses 1 "$work/none.mp4" 'a clip that is not there is named' --video "$work/none.mp4"
echo 'no clip at all' > "$work/text.mp4"
refuses 1 "$work/text.mp4" 'a file that is no clip is named' --video "$work/text.mp4"
head -c 60 "$clip" > "$work/cut.y4m"
refuses 1 "$work/cut.y4m" 'a clip without a whole picture is refused' --video "$work/cut.y4m"
mkdir "$work/empty"
refuses 1 "$work/empty" 'a folder without pictures is refused' --video "$work/empty"
refuses 2 'nothing to do' '--strength 0 says that there is nothing to do' --video "$clip" --strength 0
refuses 2 'less than one step' 'a strength of less than one step is refused' --video "$clip" --strength 0.1
refuses 2 '--strength is 1.5' '--strength above 1 is refused' --video "$clip" --strength 1.5
refuses 2 'has 5 frames, this run needs 9' 'a clip that is too short is refused with both numbers' --video "$clip" --frames 9
refuses 2 'unsound' 'FreeInit as diffusers does it is refused' --video "$clip" --reinit freeinit:passes=2,compat=1

# ---- what it takes ----------------------------------------------------------------------------------------------------

fresh
run generate $TINY $SMALL --video "$clip" --strength 0.6 --dry-run --json -o "$out/x.mp4" && [ -z "$(ls -A "$out")" ] &&
    grep -q '"calls":3,' "$work/std" && grep -q '"frames":5' "$work/std"
ok '--dry-run counts the steps that the strength leaves, and the frames of the clip'
run generate $TINY $SMALL --video "$clip" --strength 0.6 --reinit freeinit:passes=2 --dry-run --json -o "$out/x.mp4" &&
    grep -q '"calls":6,' "$work/std"
ok 'every pass of FreeInit makes the same share of its steps'
run generate $TINY $SMALL --video "$long" --dry-run --json -o "$out/x.mp4" && grep -q '"frames":24' "$work/std" &&
    grep -q 'is 31x29, its pictures are stretched to 72x40' "$work/err"
ok 'a long clip gives as many frames as the model can do, and stretching is noted'
run generate $TINY $SMALL --video "$long" --quiet --dry-run --json -o "$out/x.mp4" && [ ! -s "$work/err" ]
ok '--quiet notes nothing'

# ---- clips ------------------------------------------------------------------------------------------------------------

fresh
run generate $TINY $SMALL --video "$clip" --strength 0.6 --seed 3 --json -o "$out/a.mp4" && cp "$work/err" "$work/a.err" &&
    grep -q '"frames":5' "$work/std" && grep -q '"fps":12' "$work/std"
ok 'frames and rate are the clip'\''s'
[ "$(grep -n '^encode 5/5' "$work/a.err" | cut -d: -f1)" -lt "$(grep -n 'pass 1/1, step 1/3' "$work/a.err" | cut -d: -f1)" ] &&
    ! grep -q 'step 4' "$work/a.err" && grep -q '3 network calls (0.6x plain)' "$work/a.err"
ok 'progress tells of encoding, then of the steps that are left; the first line of the cost'
run info "$out/a.mp4" && grep -qF "video: $clip" "$work/std" && grep -q 'strength: 0.6' "$work/std" &&
    grep -A1 'given:' "$work/std" | grep -q clip
ok 'the recipe names the clip and the strength'
run generate --again "$out/a.mp4" --quiet -o "$out/b.mp4" && cmp "$out/a.mp4" "$out/b.mp4"
ok '--again makes the same bytes'
run generate --again "$out/a.mp4" --strength 0.9 --quiet -o "$out/c.mp4" && ! cmp -s "$out/a.mp4" "$out/c.mp4" &&
    run generate --again "$out/a.mp4" --seed 4 --quiet -o "$out/d.mp4" && ! cmp -s "$out/a.mp4" "$out/d.mp4"
ok '--again with another strength or seed makes another clip'
mv "$clip" "$work/moved.y4m"
run generate --again "$out/a.mp4" --quiet -o "$out/e.mp4"
[ $? = 1 ] && grep -qF "$clip" "$work/err" && [ ! -e "$out/e.mp4" ]
ok '--again without the clip names it'
run generate --again "$out/a.mp4" --video "$work/moved.y4m" --quiet -o "$out/e.safetensors" &&
    run generate $TINY $SMALL --video "$work/moved.y4m" --strength 0.6 --seed 3 --quiet --threads 1 -o "$out/f.safetensors" &&
    cmp <(tail -c 43200 "$out/e.safetensors") <(tail -c 43200 "$out/f.safetensors")
ok 'a clip that has moved is given again; threads change no byte'
mv "$work/moved.y4m" "$clip"
fresh
run generate $TINY $SMALL --frames 3 --video "$clip" --count 2 --reinit freeinit:passes=2 --steps 4 --strength 0.5 --save-latents \
    "$out/l.safetensors" -o "$out/p.gif" && [ "$(grep -c '^encode 3/3' "$work/err")" = 2 ] &&
    [ "$(grep -c 'pass 2/2, step 2/2' "$work/err")" = 2 ] && ! cmp -s "$out/p-0001.gif" "$out/p-0002.gif" &&
    run info "$out/l-0001.safetensors" --json && grep -q '"shape":\[1,4,3,5,9\]' "$work/std"
ok '--frames takes the beginning; several clips, FreeInit and saved latents work with it'
fresh
run generate $TINY --prompt cat --width 24 --height 40 --steps 2 --frames 3 --quiet -o "$out/s%02d.png" &&
    run generate $TINY --prompt cat --width 40 --height 24 --steps 2 --strength 1 --video "$out/s%02d.png" --json -o "$out/x.gif" &&
    grep -q '"frames":3' "$work/std" && grep -q '"fps":8' "$work/std" && grep -q '"width":40' "$work/std"
ok 'a picture sequence of another size is a clip too'
run info "$out/s%02d.png" --json && ! grep -q strength "$work/std"
ok 'without a clip a recipe has no strength'

[ $failed = 0 ]
