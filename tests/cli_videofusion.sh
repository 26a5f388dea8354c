#!/usr/bin/env bash
# gimbal generate with two networks that share a clip's noise, from outside: a tiny folder of golden networks, what is said of
# it, clips with one base and others with one residual, long clips, recipes, --resume, folders that are refused.
# Usage: tests/cli_videofusion.sh build/release/gimbal   (from the top of the checkout). Closes with "N passed, N failed".
set -u
G=$(realpath "${1:?usage: tests/cli_videofusion.sh PROGRAM}")
GOLD=tests/golden/training
source tests/kit/cases.sh
source tests/kit/generate.sh

pair=$work/pair
cp -r $GOLD/model "$pair"
mv "$pair/unet" "$pair/base"
cp -r $GOLD/residual "$pair/"
chmod -R u+w "$pair"
echo '{"lambda": 0.5, "key_frame": 2, "frame_count": 6, "rescale": true, "width": 48, "height": 32}' > "$pair/videofusion.json"
RUN="--model $pair --prompt red --steps 3 --cfg 2"

# frame FILE N F: the bytes of frame N of F of its tensor "latents" [1,4,F,4,6], as a sum
frame() {
    local head start
    head=$((8 + $(od -An -tu8 -N8 "$1")))
    start=$(head -c $head "$1" | tr -d ' ' | grep -ao '"latents":{[^}]*}' | grep -ao 'offsets":\[[0-9]*' | grep -o '[0-9]*$')
    for c in 0 1 2 3; do
        od -An -v -tx1 -j $((head + start + (c * $3 + $2) * 96)) -N96 "$1"
    done | cksum
}

# ---- the folder -----------------------------------------------------------------------------------------------------------

run info "$pair" && grep -q 'videofusion' "$work/std" && grep -q 'residual' "$work/std"
ok 'info names the family and both networks'
run info --json "$pair" && grep -q '"usable": *true' "$work/std" && grep -q '"lambda": *0.5' "$work/std" &&
    grep -q '"max_frames": *512' "$work/std"
ok 'info --json: usable, its lambda, its longest clip'
run generate $RUN --dry-run --json -o x.gif && grep -q '"calls": *3' "$work/std" &&
    grep -q 'shared:lambda=-1,key=-2' "$work/std"
ok 'a dry run counts the calls and names the noise'

# ---- one base, one residual ------------------------------------------------------------------------------------------------

fresh
run generate $RUN --seed 5 --base-seed 9 --count 3 -o "$out/a.gif" --save-latents "$out/a.safetensors"
status=$?
[ $status = 0 ] && [ "$(frame "$out/a-0001.safetensors" 2 6)" = "$(frame "$out/a-0002.safetensors" 2 6)" ] &&
    [ "$(frame "$out/a-0001.safetensors" 2 6)" = "$(frame "$out/a-0003.safetensors" 2 6)" ] &&
    [ "$(frame "$out/a-0001.safetensors" 1 6)" != "$(frame "$out/a-0002.safetensors" 1 6)" ]
ok 'clips of one base seed have one key frame, and others beside it'
run generate $RUN --seed 6 --base-seed 9 -o "$out/b.gif" --save-latents "$out/b.safetensors" &&
    [ "$(frame "$out/b.safetensors" 0 6)" = "$(frame "$out/a-0002.safetensors" 0 6)" ] &&
    [ "$(frame "$out/b.safetensors" 5 6)" = "$(frame "$out/a-0002.safetensors" 5 6)" ]
ok 'a clip of several is the clip by itself, to the bit'
run generate $RUN --seed 6 --base-seed 10 -o "$out/c.gif" --save-latents "$out/c.safetensors" &&
    [ "$(frame "$out/b.safetensors" 2 6)" != "$(frame "$out/c.safetensors" 2 6)" ]
ok 'another base, another key frame'
run generate --again "$out/b.gif" -o "$out/d.gif" --save-latents "$out/d.safetensors" &&
    cmp -s "$out/b.gif" "$out/d.gif"
ok 'a recipe repeats the base seed'

# ---- samplers, guidance, length ----------------------------------------------------------------------------------------------

fresh
for sampler in "ddim --eta 1" ddpm euler dpmpp2m "ddim --cfg-base 1" "ddim --cfg 1 --cfg-base 3"; do
    run generate $RUN --sampler $sampler -o "$out/x.gif" || break
done
ok 'every sampler and both guidance scales'
run generate $RUN --reinit freeinit:passes=2 -o "$out/x.gif" && run generate $RUN --noise white -o "$out/y.gif"
ok 're-initialised, and with noise that it was not trained on'
run generate $RUN --frames 64 --width 32 --height 32 -o "$out/long.gif" &&
    run generate $RUN --frames 512 --width 16 --height 16 --steps 2 -o "$out/longest.gif" &&
    run generate $RUN --frames 1 -o "$out/one.gif"
ok '64, 512 frames, and one'
refuses 2 'at most 512' '513 frames' $RUN --frames 513
refuses 2 '--rescale' '--rescale' $RUN --rescale 0.5
refuses 2 'takes no motion' '--motion' $RUN --motion $GOLD/model-motion
refuses 2 'share no noise' 'a base seed without a base' $RUN --noise white --base-seed 3
refuses 2 'no base network' '--cfg-base of another family' --model $GOLD/model --motion $GOLD/model-motion --prompt red --cfg-base 3

# ---- stopped and gone on with ------------------------------------------------------------------------------------------------

fresh
run generate $RUN --steps 40 --frames 64 --seed 3 -o "$out/whole.gif"
(
    timeout -s INT 0.6 "$G" generate $RUN --steps 40 --frames 64 --seed 3 --resume -o "$out/cut.gif"
) > "$work/std" 2> "$work/err"
run generate $RUN --steps 40 --frames 64 --seed 3 --resume -o "$out/cut.gif" && cmp -s "$out/whole.gif" "$out/cut.gif"
ok 'a run that was stopped gives the bytes of one that was not'

# ---- layers over time --------------------------------------------------------------------------------------------------------

fresh
seeing=$work/seeing
cp -r "$pair" "$seeing" && cp -r $GOLD/model-motion "$seeing/residual/motion_adapter" && chmod -R u+w "$seeing"
run info --json "$seeing" && grep -q '"usable": *true' "$work/std" && grep -q '"motion_adapter"' "$work/std"
ok 'info tells of a residual network with layers over time'
run generate $RUN --seed 5 -o "$out/a.gif" --save-latents "$out/a.safetensors" &&
    run generate $RUN --seed 5 --model "$seeing" -o "$out/b.gif" --save-latents "$out/b.safetensors" &&
    [ "$(frame "$out/a.safetensors" 2 6)" = "$(frame "$out/b.safetensors" 2 6)" ] &&
    [ "$(frame "$out/a.safetensors" 1 6)" != "$(frame "$out/b.safetensors" 1 6)" ]
ok 'they change every frame but the key frame'
run generate $RUN --model "$seeing" --frames 512 --width 16 --height 16 --steps 2 -o "$out/longest.gif" &&
    run generate $RUN --model "$seeing" --frames 1 -o "$out/one.gif" && run generate $RUN --model "$seeing" --frames 7 -o "$out/seven.gif"
ok '512 frames with them, one, and one more than was trained'

# ---- folders that are refused ------------------------------------------------------------------------------------------------

# breaks TEXT NAME COMMAND: the folder after COMMAND is refused with TEXT
breaks() {
    rm -rf "$work/bad" && cp -r "$pair" "$work/bad" && (cd "$work/bad" && eval "$3")
    refuses 1 "$1" "$2" --model "$work/bad" --prompt red
}
breaks 'expected at least 0 and below 1' 'lambda 1' "sed -i 's/0.5/1/' videofusion.json"
breaks '"key_frame" is 6' 'a key frame outside the clip' "sed -i 's/\"key_frame\": 2/\"key_frame\": 6/' videofusion.json"
breaks 'no videofusion.json' 'no videofusion.json' 'rm videofusion.json'
breaks 'no residual' 'no residual network' 'rm -r residual'
breaks 'class_embedding.linear_1' "the base's weights as the residual's" 'cp base/*.safetensors residual/'
breaks 'cross_attention_dim' 'networks of other texts' \
    "sed -i 's/\"cross_attention_dim\": 12/\"cross_attention_dim\": 16/' residual/config.json"

pair=$seeing
breaks 'knows frames of one timestep' 'shares of their own for frames that see each other' \
    "sed -i 's/\"lambda\": 0.5/\"lambda\": [0.5, 0.5, 1, 0.5, 0.5, 0.4]/' videofusion.json"
breaks 'positions' 'more frames than the layers over time know' "sed -i 's/\"frame_count\": 6/\"frame_count\": 99/' videofusion.json"
breaks 'motion_adapter' 'layers over time of another network' "cp base/*.safetensors residual/motion_adapter/"

echo "$((n - failed)) passed, $failed failed"
[ "$failed" = 0 ]
