#!/usr/bin/env bash
# gimbal generate --image, from outside: pictures good and odd, cameras, what is refused, the golden runs of ConsistI2V's tiny
# model, recipes and --resume; gimbal measure --suite.
# Usage: tests/cli_image.sh build/release/gimbal   (from the top of the checkout). Closes with "N passed, N failed".
set -u
G=$(realpath "${1:?usage: tests/cli_image.sh PROGRAM}")
GOLD=tests/golden/consisti2v-tiny
ODD=tests/golden/media
TEXT="--model tests/golden/models/animatediff-tiny --motion tests/golden/models/animatediff-tiny-motion"
RUN="--model $GOLD/model --prompt cat --frames 4 --width 96 --height 80 --steps 2 --cfg 3"
source tests/kit/cases.sh
source tests/kit/generate.sh
trap 'kill -9 ${pid:-} 2> /dev/null; rm -rf "$work"' EXIT

# colours FILE.safetensors WIDTH HEIGHT: of a clip of frames, the left upper and the right lower pixel of the first, in tens
colours() {
    local size head
    size=$(($2 * $3 * 3))
    head=$((8 + $(od -An -tu8 -N8 "$1")))
    for at in $((size * 0 + 3 * ($2 + 1))) $((size - 3 * ($2 + 2))); do
        od -An -v -tu1 -j $((head + at)) -N3 "$1"
    done | awk '{ for (i = 1; i <= 3; i++) printf "%d ", ($i + 5) / 10 }'
}

# shows FILE NOTE WIDTH HEIGHT COLOURS: what a camera sees of FILE first; NOTE on stderr, empty: nothing there
shows() {
    fresh
    run generate --image "$1" --camera tilt-down --width "$3" --height "$4" --frames 2 --camera-preview "$out/x.safetensors" &&
        [ "$(cat "$work/std")" = "$out/x.safetensors" ] && { [ -n "$2" ] || [ ! -s "$work/err" ]; } && grep -qF -- "$2" <(cat "$work/err"; echo) &&
        [ "$(colours "$out/x.safetensors" "$3" "$4")" = "$5 " ]
}

# floats FILE TENSOR: its numbers, one a line
floats() {
    local entry head
    head=$((8 + $(od -An -tu8 -N8 "$1")))
    entry=$(head -c $head "$1" | tr -d ' ' | grep -ao "\"$2\":{[^}]*}" | grep -ao 'offsets":\[[0-9,]*' | grep -o '[0-9,]*$')
    od -An -v -tf4 -w4 -j $((head + ${entry%,*})) -N $((${entry#*,} - ${entry%,*})) "$1"
}

# apart FILE FILE LIMIT: relative rms of their latents is below the limit; both have as many
apart() {
    paste <(floats "$1" latents) <(floats "$2" latents) |
        awk -v limit="$3" 'NF != 2 { exit 1 } { d += ($1 - $2) ^ 2; s += $2 ^ 2 }
            END { exit !(NR && s > 0 && sqrt(d / s) < limit) }'
}

# ---- pictures, without a model ------------------------------------------------------------------------------------------

shows $ODD/cmyk.jpg '' 48 32 '20 4 4 4 6 20'
ok 'CMYK is read as the colours that it means'
shows $ODD/alpha.png 'is partly transparent: it lies over black' 48 32 '0 0 0 4 6 20'
ok 'what is transparent lies over black, and that is said'
shows $ODD/deep.png '' 48 32 '20 20 20 20 20 20'
ok '16 bits become 8'
shows $ODD/turned.jpg '' 32 48 '20 4 4 4 6 20'
ok 'EXIF turns the picture upright'
shows $ODD/moving.gif 'holds several pictures: the first one is taken' 48 32 '20 4 4 4 6 20'
ok 'of a moving picture the first one is taken, and that is said'
printf 'P6\n1 1\n255\n\310\050\050' > "$work/dot.ppm"
shows "$work/dot.ppm" '' 16 16 '20 4 4 20 4 4'
ok 'a picture of one pixel fills everything'
fresh
for camera in pan-left pan-right zoom-in zoom-out tilt-up tilt-down diagonal roll; do
    run generate --image $GOLD/land.png --camera $camera --width 64 --height 64 --frames 5 --camera-preview "$out/$camera.gif" || break
done
[ "$(ls "$out" | wc -l)" = 8 ] && [ "$(cat "$out"/*.gif | sha256sum)" != "$(cat "$out/roll.gif" | sha256sum)" ] &&
    [ "$(sha256sum "$out"/*.gif | cut -d' ' -f1 | sort -u | wc -l)" = 8 ]
ok 'eight moves can be looked at without a model, and differ'
run generate --image $GOLD/land.png --camera zoom-in --camera-preview "$out/z.gif" && run info "$out/z.gif" --json &&
    grep -q '"width": *256' "$work/std" && grep -q '"frames": *16' "$work/std"
ok 'without sizes a preview has those that ConsistI2V was trained on'

cat > "$work/path.json" << 'EOF'
{"frames": [{"time": 0, "x": 0.5, "y": 0.5, "scale": 0.5, "angle": 0}, {"time": 1, "x": 0.6, "y": 0.5, "scale": 0.4, "angle": 10}]}
EOF
sed 's/0.6/0.95/' "$work/path.json" > "$work/beyond.json"
fresh
run generate --image $GOLD/land.png --camera "path:$work/path.json" --frames 5 --camera-preview "$out/p.gif" && [ ! -s "$work/err" ]
ok 'a path inside the picture'
run generate --image $GOLD/land.png --camera "path:$work/beyond.json" --frames 5 --camera-preview "$out/q.gif" &&
    grep -q 'warning: .*beyond.json: [1-5] of 5 frames would leave the picture' "$work/err"
ok 'a path that leaves the picture is held inside, with a warning'
run generate --quiet --image $GOLD/land.png --camera "path:$work/beyond.json" --frames 5 --camera-preview "$out/q.gif" && [ ! -s "$work/err" ]
ok '--quiet warns of nothing'

run generate --image $GOLD/land.png --camera roll --frames 4096 --width 4096 --height 4096 --camera-preview "$out/big.gif"
[ $? = 2 ] && grep -q 'would take 824.6 GB' "$work/err" && [ ! -e "$out/big.gif" ]
ok 'a preview that no machine holds is refused'
refuses 2 'no camera moves' '--camera-preview without a camera' $RUN --image $GOLD/land.png --camera-preview "$out/p.gif"
refuses 2 '--camera is for a picture' '--camera without --image' $RUN --camera pan-left
refuses 2 '--fit is for a picture' '--fit without --image' $RUN --fit pad
refuses 2 '--fit and --camera' '--fit with a camera' $RUN --image $GOLD/land.png --fit pad --camera pan-left
refuses 2 '--camera encodes every frame' '--image-latents with a camera' $RUN --image $GOLD/land.png --camera pan-left \
    --image-latents $GOLD/cases/first-land-80x96.safetensors
refuses 2 '--camera and --reference' '--reference with a camera' $RUN --image $GOLD/land.png --camera pan-left --reference $ODD/moving.gif
refuses 2 '--camera gives FrameInit its low band' 'a camera without FrameInit' $RUN --image $GOLD/land.png --camera pan-left --reinit none
refuses 1 "$work/none.png" 'a picture that is not there is named' $RUN --image "$work/none.png"
echo 'no picture' > "$work/text.png"
refuses 1 "$work/text.png" 'a file that is no picture is named' $RUN --image "$work/text.png"
head -c 5000 $GOLD/land.png > "$work/cut.png"
refuses 1 "$work/cut.png" 'a picture that is cut short is named' $RUN --image "$work/cut.png"
refuses 2 'pan' 'an unknown camera' $RUN --image $GOLD/land.png --camera pan-up --reinit frameinit
refuses 2 'width' 'panning over a portrait' $RUN --image $GOLD/tall.png --camera pan-left --reinit frameinit
refuses 2 'height' 'zooming with width and height that differ' $RUN --image $GOLD/land.png --camera zoom-in --reinit frameinit
refuses 1 "$work/none.json" 'a path that is not there is named' $RUN --image $GOLD/land.png --camera "path:$work/none.json" --reinit frameinit
echo '{"frames": [{"time": 2}]}' > "$work/bad.json"
refuses 1 "$work/bad.json" 'a path that makes no sense is named' $RUN --image $GOLD/land.png --camera "path:$work/bad.json" --reinit frameinit

# ---- what models refuse ---------------------------------------------------------------------------------------------------

refuses 2 'begins from a picture' 'ConsistI2V without a picture' $RUN
refuses 2 'a picture is given' 'a picture for a model that has no use for it' $TEXT --prompt cat --width 72 --height 40 --steps 2 --image $GOLD/land.png
refuses 2 'frameinit' 'FrameInit without anything to keep to' $TEXT --prompt cat --width 72 --height 40 --steps 2 --reinit frameinit
refuses 2 'chunks' 'chunks of a model that begins from nothing' $TEXT --prompt cat --width 72 --height 40 --steps 2 --chunks 2
refuses 2 'frame-stride' 'a stride for a model that was not told of it' $TEXT --prompt cat --width 72 --height 40 --steps 2 --frame-stride 3
refuses 2 'level' 'a level outside the schedule' $RUN --image $GOLD/land.png --reinit frameinit:level=1000
refuses 2 'frames' 'one frame is no video' $RUN --image $GOLD/land.png --frames 1
refuses 1 'this run needs [1,4,1,10,12]' 'a first frame of another shape' $RUN --image-latents $GOLD/cases/noise-mixed-8x80x96-1.safetensors
refuses 1 'chunk1' 'noise that lacks a chunk' $RUN --frames 8 --chunks 2 --image $GOLD/land.png \
    --latents $GOLD/cases/noise-mixed-8x80x96-1.safetensors
refuses 2 'has 2 frames, this run needs 4' 'a reference that is too short' $RUN --image $GOLD/land.png --reinit frameinit --reference $ODD/moving.gif
refuses 2 '--save-passes' 'passes of several chunks' $RUN --image $GOLD/land.png --chunks 2 --save-passes "$work/passes"

# ---- golden runs: the authors' code, see the manifest -----------------------------------------------------------------------

# golden NAME LIMIT ARGS: the command line of the manifest; LIMIT: 8 times the float32 error of the reference, relative rms
golden() {
    local name=$1 limit=$2 frames
    shift 2
    fresh
    run generate --model $GOLD/model --prompt 'a red fox runs over the snow, left to right' --steps 3 --dtype f32 "$@" \
        --save-latents "$out/latents.safetensors" -o "$out/f%03d.png" &&
        apart "$out/latents.safetensors" $GOLD/cases/"$name".safetensors "$limit" &&
        frames=$(("$(floats "$out/latents.safetensors" latents | wc -l)" / 4 / 10 / $([ $name = zoom-in ] && echo 10 || echo 12))) &&
        [ "$(ls "$out"/f*.png | wc -l)" = $frames ]
    ok "golden run $name"
}
LAND="--image $GOLD/land.png --width 96 --height 80" TALL="--image $GOLD/tall.png --width 96 --height 80"
MIXED="--noise mixed:alpha=1" N8="--frames 8 --latents $GOLD/cases/noise-mixed-8x80x96-1.safetensors"
FIRST_LAND="--image-latents $GOLD/cases/first-land-80x96.safetensors" FIRST_TALL="--image-latents $GOLD/cases/first-tall-80x96.safetensors"
INIT=frameinit:level=850,filter=gaussian,ds=0.25,dt=0.25
golden none 4.05e-06 $LAND $MIXED $N8 $FIRST_LAND --frame-stride 3 --cfg 1 --negative '' --reinit none
golden text 2.65e-05 $LAND $MIXED $N8 $FIRST_LAND --frame-stride 3 --cfg 7.5 --negative 'blurry, grey' --reinit none
golden both 2.56e-05 $LAND $MIXED $N8 $FIRST_LAND --frame-stride 3 --cfg 7.5 --negative '' --reinit none \
    --cfg-image 1.5
golden none-init 3.85e-06 $TALL $MIXED $N8 $FIRST_TALL --frame-stride 1 --cfg 1 --negative '' --reinit $INIT
golden text-init 2.56e-05 $TALL $MIXED $N8 $FIRST_TALL --frame-stride 3 --cfg 7.5 --negative '' --reinit $INIT
golden both-init 1.71e-05 $TALL $MIXED $N8 $FIRST_TALL --frame-stride 5 --cfg 5 --negative '' \
    --reinit frameinit:level=700,filter=gaussian,ds=0.5,dt=0.3 --cfg-image 2
golden five-frames 2.53e-05 $LAND $MIXED --frames 5 --latents $GOLD/cases/noise-mixed-5x80x96-1.safetensors $FIRST_LAND \
    --frame-stride 3 --cfg 7.5 --negative '' --reinit frameinit:level=850,filter=gaussian,ds=0.25,dt=0.5
golden chunks2 2.73e-05 $LAND $MIXED --frames 8 --latents $GOLD/cases/noise-mixed-8x80x96-2.safetensors $FIRST_LAND \
    --frame-stride 3 --cfg 7.5 --negative '' --reinit $INIT --chunks 2
golden pan-right 2.71e-05 $LAND $MIXED --frames 8 --latents $GOLD/cases/noise-pan_right-8x80x96-1.safetensors \
    --frame-stride 3 --cfg 7.5 --negative '' --reinit frameinit:level=750,filter=gaussian,ds=0.5,dt=0.5 \
    --camera pan-right
golden zoom-in 2.5e-05 --image $GOLD/land.png --width 80 --height 80 $MIXED --frames 8 \
    --latents $GOLD/cases/noise-zoom_in-8x80x80-1.safetensors --frame-stride 3 --cfg 7.5 --negative '' \
    --reinit frameinit:level=750,filter=gaussian,ds=0.5,dt=0.5 --camera zoom-in
golden from-image 2.64e-05 $LAND $MIXED $N8 --frame-stride 3 --cfg 7.5 --negative '' --reinit $INIT
golden torch-rng 2.74e-05 $TALL --noise progressive:alpha=1 --frames 8 --frame-stride 3 --cfg 7.5 --negative '' \
    --reinit none --seed 7 --rng torch

# ---- recipes ------------------------------------------------------------------------------------------------------------

fresh
cp $GOLD/land.png "$work/land.png"
run generate $RUN --image "$work/land.png" --fit pad --chunks 2 --seed 3 --json -o "$out/a.mp4" && grep -q '"frames":7' "$work/std" &&
    grep -q 'chunk 1/2, pass 1/1, step 1/2' "$work/err" && grep -q 'chunk 2/2, pass 1/1, step 2/2' "$work/err"
ok 'two chunks of four frames are seven, and progress counts them'
run info "$out/a.mp4" && grep -qF "image: $work/land.png" "$work/std" && grep -q 'image-sha256: [0-9a-f]\{64\}$' "$work/std" &&
    grep -q 'fit: pad' "$work/std" && grep -q 'chunks: 2' "$work/std"
ok 'the recipe names the picture, the SHA-256 of its pixels, the fit and the chunks'
run generate --again "$out/a.mp4" --quiet -o "$out/b.mp4" && cmp "$out/a.mp4" "$out/b.mp4"
ok '--again makes the same bytes'
run generate --again "$out/a.mp4" --fit crop --quiet -o "$out/c.mp4" && ! cmp -s "$out/a.mp4" "$out/c.mp4"
ok '--again with another fit makes another clip'
cp $GOLD/square.png "$work/land.png"
run generate --again "$out/a.mp4" --quiet -o "$out/d.mp4"
[ $? = 1 ] && grep -qF "$work/land.png: has changed" "$work/err" && [ ! -e "$out/d.mp4" ]
ok '--again names a picture that has changed'
run generate --again "$out/a.mp4" --image "$work/land.png" --quiet -o "$out/d.mp4" && ! cmp -s "$out/a.mp4" "$out/d.mp4"
ok 'and takes it when it is given'
rm "$work/land.png"
run generate --again "$out/a.mp4" --quiet -o "$out/e.mp4"
[ $? = 1 ] && grep -qF "$work/land.png" "$work/err" && [ ! -e "$out/e.mp4" ]
ok '--again names a picture that is missing'
run generate --again "$out/a.mp4" --image $GOLD/land.png --threads 1 --quiet -o "$out/e.safetensors" &&
    run generate $RUN --image $GOLD/land.png --fit pad --chunks 2 --seed 3 --quiet -o "$out/f.safetensors" &&
    cmp <(tail -c 161280 "$out/e.safetensors") <(tail -c 161280 "$out/f.safetensors")
ok 'one that has moved is given again; threads change no byte'
run generate $RUN --image $GOLD/land.png --camera "path:$work/path.json" --reinit frameinit:level=700 --quiet -o "$out/g.gif" &&
    run generate --again "$out/g.gif" --quiet -o "$out/h.gif" && cmp "$out/g.gif" "$out/h.gif" &&
    sed -i 's/0.6/0.55/' "$work/path.json" && ! run generate --again "$out/g.gif" --quiet -o "$out/i.gif" &&
    grep -qF "path:$work/path.json: has changed" "$work/err" && [ ! -e "$out/i.gif" ]
ok 'a camera'\''s path is made again, and named when it has changed'
fresh
run generate $TEXT --prompt cat --width 72 --height 40 --steps 2 --frames 4 --image $GOLD/land.png --reinit frameinit --quiet -o "$out/a.safetensors" &&
    run generate $TEXT --prompt cat --width 72 --height 40 --steps 2 --frames 4 --quiet -o "$out/b.safetensors" &&
    ! cmp -s <(tail -c 34560 "$out/a.safetensors") <(tail -c 34560 "$out/b.safetensors")
ok 'FrameInit keeps a text-to-video model to a picture'
run generate $TEXT --prompt cat --width 72 --height 40 --steps 2 --frames 2 --reference $ODD/moving.gif --reinit frameinit --quiet -o "$out/c.gif" &&
    run generate --again "$out/c.gif" --quiet -o "$out/d.gif" && cmp "$out/c.gif" "$out/d.gif" &&
    run generate --again "$out/c.gif" --reference "$out/a.safetensors" --quiet -o "$out/e.gif"
[ $? = 1 ] && run generate --again "$out/c.gif" --reference "$out/c.gif" --quiet -o "$out/e.gif" && ! cmp -s "$out/c.gif" "$out/e.gif"
ok 'and to a clip'

# ---- --resume -----------------------------------------------------------------------------------------------------------

export GIMBAL_RESUME_SECONDS=0
LONG="$RUN --frames 8 --steps 8 --chunks 3 --image $GOLD/land.png --noise mixed:alpha=1 --reinit frameinit"
fresh
run generate $LONG --quiet -o "$work/want.mp4"
ok 'a long video'

# stopped SIGNAL LINE: LONG with --resume, stopped when LINE has been on stderr
stopped() {
    local i
    "$G" generate $LONG --resume -o "$out/clip.mp4" > "$work/std" 2> "$work/err" &
    pid=$!
    for ((i = 0; i < 2000; i++)); do
        [[ $(< "$work/err") == *"$2"* ]] && break
        kill -0 $pid 2> /dev/null || break
        sleep 0.005
    done
    kill -"$1" $pid 2> /dev/null
    wait $pid 2> /dev/null
    pid=
    [ -e "$out/.clip.mp4.resume" ] && [ ! -e "$out/clip.mp4" ]
}
stopped KILL 'chunk 2/3, pass 1/1, step 2/8' && run generate $LONG --resume -o "$out/clip.mp4" &&
    grep -q 'going on in chunk [23] of 3, pass 1 of 1, after step' "$work/err" && cmp "$out/clip.mp4" "$work/want.mp4" &&
    [ "$(ls -A "$out" | grep -v '^\.clip\..*\.mp4$\|^\.\.clip')" = clip.mp4 ]
ok 'killed in its second chunk it goes on there, to the same bytes'
fresh
stopped INT 'chunk 2/3, pass 1/1, step 1/8' && grep -q 'cancelled in chunk [23] of 3' "$work/err"
ok 'Ctrl-C keeps the state and says where'
run generate $LONG --resume --fit stretch -o "$out/clip.mp4"
[ $? = 2 ] && grep -q 'resume: the state of another run: the given' "$work/err" && [ ! -e "$out/clip.mp4" ]
ok 'a state of another fit is refused'
run generate $LONG --resume --chunks 2 -o "$out/clip.mp4"
[ $? = 2 ] && grep -q -- '--chunks was 3, is 2' "$work/err" && [ ! -e "$out/clip.mp4" ]
ok 'a state of other settings is refused, naming them'
run generate $LONG --resume -o "$out/clip.mp4" && cmp "$out/clip.mp4" "$work/want.mp4"
ok 'and the same command ends it'

# ---- measure --suite ----------------------------------------------------------------------------------------------------

run generate --image $GOLD/land.png --camera roll --width 144 --height 128 --frames 6 --camera-preview "$work/clip.gif"
run measure "$work/clip.gif" --suite i2v-bench --json --quiet && grep -q '"temporal_flickering":0' "$work/std" &&
    [ "$(grep -o '"absent":{.*' "$work/std" | grep -oE '"(motion_smoothness|dynamic_degree|background_consistency|subject_consistency|object_consistency|scene_consistency|video_text_consistency)":"[^"]' | wc -l)" = 7 ]
ok 'without networks one of eight measures is there, the others are absent with a reason'
run measure "$work/clip.gif" --suite i2v-bench --weights tests/golden/metric/nets --json --quiet &&
    grep -qE '"scores":\{.*"dynamic_degree":[01]' "$work/std" && grep -qE '"subject_consistency":0' "$work/std" &&
    grep -qE '"background_consistency":0' "$work/std" && [ "$(grep -o '"absent":{.*' "$work/std" | grep -o '":"' | wc -l)" = 4 ] &&
    grep -qE '"absent":\{"motion_smoothness":"needs AMT[^}]*GRiT[^}]*Tag2Text[^}]*ViCLIP' "$work/std"
ok 'with networks four are there, and no proxy stands in for the rest'
mkdir "$work/some" && cp tests/golden/metric/nets/raft.safetensors "$work/some"
run measure "$work/clip.gif" --suite i2v-bench --weights "$work/some" --quiet && grep -q '^  dynamic_degree  *[01]\.' "$work/std" &&
    grep -q '^  subject_consistency: .*no weights of DINO' "$work/std"
ok 'a network that is missing leaves the others measured'
run measure --features "$work/a" --with "$work/b" --suite i2v-bench
[ $? = 2 ] && grep -q 'no suite' "$work/err"
ok 'a suite is of clips, not of sets'

echo "$((n - failed)) passed, $failed failed"
[ "$failed" = 0 ]
