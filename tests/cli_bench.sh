#!/usr/bin/env bash
# gimbal bench, from outside: what each line says, what is refused, and that a kernel left to the reference is a failure.
# Usage: tests/cli_bench.sh build/release/gimbal   (from the top of the checkout). Prints "ok N - name" lines.
set -u
G=$(realpath "${1:?usage: tests/cli_bench.sh PROGRAM}")
TOY="--model models/toyworld"
SMALL="--frames 3 --size 40x24 --threads 2" # odd, not square
source tests/kit/cases.sh

# run ARGS: stdout and stderr into files; the program's own status.
run() { timeout 120 "$G" bench "$@" > "$work/std" 2> "$work/err"; }

# refuses STATUS TEXT NAME ARGS: that status, one error line, TEXT on stderr, nothing on stdout, no file left.
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

# lines KEY...: every line of stdout is a JSON object that has all these keys.
lines() {
    local key total
    total=$(wc -l < "$work/std")
    [ "$total" -gt 0 ] && [ "$(grep -c '^{.*}$' "$work/std")" = "$total" ] || return 1
    for key in "$@"; do
        [ "$(grep -c "\"$key\":" "$work/std")" = "$total" ] || { echo "not every line has \"$key\"" > "$work/err"; return 1; }
    done
}
KEYS="row what family frames width height dtype isa threads commit cpu s_per_step gflops peak_bytes mapped_bytes open_seconds"

# ---- what is measured -----------------------------------------------------------------------------------------------

run unet $TOY $SMALL --repeat 2 --json && [ ! -s "$work/err" ] && lines $KEYS &&
    [ "$(grep -c '"row":"total"' "$work/std")" = 1 ] && [ "$(grep -c '"row":"class"' "$work/std")" -ge 6 ] &&
    grep '"row":"total"' "$work/std" | grep -q '"what":"unet","family":"animatediff","frames":3,"width":40,"height":24,"dtype":"f32"'
ok 'unet: a line for each class of operators and one for the whole, every one with all keys'
tail -n 1 "$work/std" | grep -qP '"threads":2,' && tail -n 1 "$work/std" | grep -qP '"s_per_step":0\.0\d+|"s_per_step":\d' &&
    tail -n 1 "$work/std" | grep -qP '"peak_bytes":[1-9]\d{5}' && tail -n 1 "$work/std" | grep -qP '"mapped_bytes":[1-9]\d{6}' &&
    tail -n 1 "$work/std" | grep -qP '"peak_f32_gflops":[1-9]'
ok 'and the whole has threads, seconds, memory and the measured peak'
run ops $TOY $SMALL --seconds 0.1 --json && lines $KEYS &&
    [ "$(grep -c '"row":"operator"' "$work/std")" = "$(grep -c '"backend":' "$work/std")" ] &&
    [ "$(grep -c '"row":"operator"' "$work/std")" -gt 50 ] && tail -n 1 "$work/std" | grep -q '"row":"total"'
ok 'ops: a line for each distinct operator, with the kernel that ran'
run vae $TOY $SMALL --repeat 1 --json && lines $KEYS && tail -n 1 "$work/std" | grep -q '"what":"vae"'
ok 'vae'
run vae $TOY --frames 40 --size 16x24 --repeat 1 --json && tail -n 1 "$work/std" | grep -q '"frames":40'
ok 'vae: more frames than the motion module knows'
run text $TOY --repeat 2 --json && lines $KEYS && tail -n 1 "$work/std" | grep -q '"what":"text"'
ok 'text'
run mix --frames 5 --size 72x40 --json && lines $KEYS && [ "$(wc -l < "$work/std")" = 1 ] &&
    grep -q '"threads":1,' "$work/std" && grep -q '"family":null' "$work/std"
ok 'mix: one line, one thread, no model'
run mix && grep -q ' 16 frames 512x512 f32: .* 1 thread, ' "$work/std"
ok 'mix: 4x16x64x64 unless asked otherwise'
commit=$("$G" --version | grep -oP '^ *commit:? *\K\S+' || true)
run unet $TOY $SMALL --repeat 1 && [ "$(grep -c 'commit' "$work/std")" = 2 ] &&
    tail -n 1 "$work/std" | grep -qP '^unet animatediff 3 frames 40x24 f32: [0-9.e-]+ s/step \(least .* of 1\), .* GFLOP/s, .* commit \S+, .*, 2 threads, ' &&
    grep -q "commit ${commit:-}" "$work/std" && grep -q 'conv 3x3' "$work/std"
ok 'for people: a table by class, and a line that says where it comes from'
run ops $TOY $SMALL --seconds 0 && grep -q 'bound' "$work/std" && grep -qP 'linear \[.*\.weight  \S+' "$work/std"
ok 'for people: operators with their kernels'
fresh
run unet $TOY $SMALL --repeat 1 --save "$out/a.safetensors" --seed 3 &&
    run unet $TOY $SMALL --repeat 1 --input "$out/a.safetensors" --save "$out/b.safetensors" --threads 1 &&
    cmp -s "$out/a.safetensors" "$out/b.safetensors"
ok 'unet: the same inputs give the same bytes on another number of threads'
run unet $TOY $SMALL --repeat 1 --guidance 0 --save "$out/c.safetensors" && "$G" info "$out/c.safetensors" --json | grep -q 'prediction'
ok 'unet: without guidance too'

"$G" help bench > "$work/std" 2> "$work/err" && "$G" bench --help > "$work/help" && cmp -s "$work/std" "$work/help" &&
    grep -q -- '--family animatediff-sd15|animatediff-sd15-v3|modelscope|consisti2v|sd21' "$work/help"
ok 'gimbal help bench is gimbal bench --help, and lists the families'

# ---- what is refused ------------------------------------------------------------------------------------------------------

refuses 2 'unet, ops, vae, text, mix and model' 'a benchmark is asked for'
refuses 2 "did you mean 'unet'?" 'an unknown benchmark gets the nearest' unnet
refuses 2 'found 2 words' 'one at a time' unet vae
refuses 2 'modelscope' 'an unknown family lists the known ones' unet --family modelscoop
refuses 2 '--size is 0x0' '--size 0x0 is refused' unet $TOY --size 0x0
refuses 2 '--size is 17x9' '--size 17x9 is refused' unet $TOY --size 17x9
refuses 2 '--size is 64' 'a size of one number is refused' unet $TOY --size 64
refuses 2 '--size is 64x' 'a size that ends early is refused' unet $TOY --size 64x
refuses 2 '--size is 64x64x64' 'a size of three numbers is refused' unet $TOY --size 64x64x64
refuses 2 '--size is -64x64' 'a negative size is refused' mix --size -64x64
refuses 2 '--size is 99999999999999999999x8' 'a size that overflows is refused' mix --size 99999999999999999999x8
refuses 2 '--frames is 0' '--frames 0 is refused' unet $TOY --frames 0
refuses 2 'at most 32' 'more frames than the motion module knows are refused' unet $TOY --frames 33 --size 64x64
refuses 2 '--repeat is 0' '--repeat 0 is refused' vae $TOY --repeat 0
refuses 2 '--guidance is 2' '--guidance 2 is refused' unet $TOY --guidance 2
refuses 2 'expected one of' 'an unknown dtype is refused' unet $TOY --dtype f16
refuses 2 'has no meaning here' 'flags of another benchmark are refused' mix --dtype f32
refuses 2 'has no meaning here' 'so is an input for all but the U-Net' vae $TOY --input "$work/x"
refuses 2 'of the family animatediff' 'a folder of another family is refused' unet $TOY --family modelscope
refuses 2 '--motion belongs to a --model' 'an adapter without a model is refused' unet --motion models/toyworld/motion_adapter
refuses 1 "$work/none" 'a model that is not there is named' unet --model "$work/none"
refuses 1 'none.safetensors' 'an input that is not there is named' unet $TOY $SMALL --input "$work/none.safetensors"
refuses 1 'cannot be written' 'a place that cannot be written is found first' unet $TOY $SMALL --save "$out/no/x.safetensors"
refuses 2 '-o is missing' 'model: where to is asked for' model --family sd21
refuses 2 '--family is missing' 'model: which is asked for' model -o "$out/x"
refuses 2 'expected one of' 'model: an unknown type is refused' model --family sd21 --type f8 -o "$out/x"
refuses 1 'there already' 'model: what is there is kept' model --family sd21 -o models/toyworld
refuses 1 'no folder' 'model: a folder in a folder that is not there is refused' model --family sd21 -o "$out/no/x"
dd if=/dev/zero of="$work/zero" bs=1 count=8 status=none
refuses 1 'safetensors' 'an input that is no tensor file is refused' unet $TOY $SMALL --input "$work/zero"

GIMBAL_BACKEND=ref run ops $TOY $SMALL --seconds 0
[ $? = 1 ] && grep -q 'ran on the reference loops, first ' "$work/err" && grep -q ' ref$' "$work/std"
ok 'ops fails when an operator that has fast kernels ran on the reference loops'

# a cancelled model leaves nothing: the signal comes while the first gigabyte is written
fresh
"$G" bench model --family sd21 -o "$out/m" -q 2> "$work/err" &
pid=$!
for _ in $(seq 100); do [ -n "$(ls -A "$out")" ] && break; sleep 0.05; done
[ -n "$(ls -A "$out")" ] && kill -INT $pid
wait $pid
[ $? = 130 ] && [ -z "$(ls -A "$out")" ]
ok 'model: Ctrl-C leaves nothing behind'

echo "$((n - failed)) passed, $failed failed"
[ $failed = 0 ]
