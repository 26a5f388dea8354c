#!/usr/bin/env bash
# gimbal measure, from outside: what it prints, what it refuses, what it says of clips that are bad.
# Usage: tests/cli_measure.sh build/release/gimbal   (from the top of the checkout). Closes with "N passed, N failed".
set -u
G=$(realpath "${1:?usage: tests/cli_measure.sh PROGRAM}")
source tests/kit/cases.sh

# run ARGS: stdout and stderr into files; the program's own status.
run() { timeout 120 "$G" measure "$@" > "$work/std" 2> "$work/err"; }

# refuses STATUS TEXT NAME ARGS: that status, one error line, TEXT on stderr, nothing on stdout.
refuses() {
    local want=$1 text=$2 name=$3 status
    shift 3
    run "$@"
    status=$?
    [ $status = "$want" ] && [ "$(grep -c '^gimbal: error: ' "$work/err")" = 1 ] && grep -qF -- "$text" "$work/err" &&
        [ ! -s "$work/std" ]
    ok "$name"
}

# bytes N: eight bytes, least first.
bytes() {
    local i
    for i in 0 8 16 24 32 40 48 56; do printf "\\$(printf %o $((($1 >> i) & 255)))"; done
}

# frames FILE WIDTH HEIGHT LEVEL...: a clip of flat grey pictures, as generate -o FILE.safetensors writes it.
frames() {
    local file=$1 w=$2 h=$3 header level
    shift 3
    header="{\"frames\":{\"dtype\":\"U8\",\"shape\":[$#,$h,$w,3],\"data_offsets\":[0,$(($# * w * h * 3))]}}"
    {
        bytes ${#header}
        printf %s "$header"
        for level in "$@"; do head -c $((3 * w * h)) /dev/zero | tr '\0' "\\$(printf %o "$level")"; done
    } > "$file"
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

frames "$work/two.safetensors" 33 17 10 30
frames "$work/still.safetensors" 33 17 90 90 90
frames "$work/one.safetensors" 33 17 90
frames "$work/tiny.safetensors" 9 7 10 30
y4m "$work/clip.y4m" 6 72 40 12
flow=$("$G" measure "$work/still.safetensors" --json --quiet | grep -c motion_magnitude)

# ---- what it prints ---------------------------------------------------------------------------------------------------

run "$work/two.safetensors" --metric temporal_flickering --json && grep -q '"temporal_flickering":0.92156862' "$work/std" &&
    grep -q '"frames":2,"fps":null,"width":33,"height":17' "$work/std" && [ "$(wc -l < "$work/std")" = 1 ]
ok 'a tensor of frames is a clip; the score is the closed form'
grep -q '"definitions":{"temporal_flickering":"vbench:temporal_flickering/1"}' "$work/std"
ok 'every score says by which definition'
run "$work/clip.y4m" --metric psnr_prev --metric ssim_prev,ssim_first --json --per-frame &&
    [ "$(grep -o '"scores":{[^}]*}' "$work/std" | grep -o '":[0-9]' | wc -l)" = 3 ] &&
    grep -q '"per_frame":{"psnr_prev":\[null,' "$work/std" && grep -q '"fps":12' "$work/std"
ok '--metric repeated and with commas; values per frame begin with null'
run "$work/clip.y4m" "$work/two.safetensors" && [ "$(grep -c 'frames of' "$work/std")" = 2 ] &&
    grep -q '^  temporal_flickering .*higher is better' "$work/std" && grep -q 'measure 6/6' "$work/err"
ok 'a table for people, progress on stderr'
run "$work/clip.y4m" --quiet && [ ! -s "$work/err" ]
ok '--quiet is quiet'
run "$work/still.safetensors" && grep -q 'a frozen clip scores perfect here' "$work/std" &&
    grep -q '^  temporal_flickering  *1.00000' "$work/std"
ok 'a clip that stands still is warned of'
run "$work/two.safetensors" --metric temporal_flickering && ! grep -q frozen "$work/std"
ok 'one that changes is not'
if [ "$flow" = 1 ]; then
    run "$work/clip.y4m" && grep -q 'moves .* per frame' "$work/std" && grep -q '^  warp_error .*lower is better' "$work/std"
    ok 'motion stands beside consistency'
else
    run "$work/clip.y4m" && [ "$(grep -c 'no OpenCV' "$work/err")" = 1 ]
    ok 'a build without flow says so, once'
fi
"$G" generate --model models/toyworld --prompt 'a small red circle moving right over a plain black background' --frames 4 \
    --steps 2 --quiet -o "$work/toy.safetensors" > "$work/std" 2> "$work/err" && run "$work/toy.safetensors" --json &&
    grep -q '"frames":4,"fps":8' "$work/std"
ok 'a clip of generate in a tensor has the rate of its recipe'
run "$work/clip.y4m" --threads 1 --json --per-frame && mv "$work/std" "$work/one.json" &&
    run "$work/clip.y4m" --threads 3 --json --per-frame && cmp "$work/std" "$work/one.json"
ok 'threads change no byte'

"$G" generate --model models/toyworld --prompt 'a small red circle moving right over a plain black background' --frames 4 \
    --steps 2 --quiet -o "$work/even.gif" > "$work/std" 2> "$work/err" && cp "$work/even.gif" "$work/uneven.gif" &&
    delay=$(LC_ALL=C grep -obUaP '\x21\xf9\x04' "$work/even.gif" | sed -n 3p | cut -d: -f1) &&
    printf '\132' | dd of="$work/uneven.gif" bs=1 seek=$((delay + 4)) conv=notrunc status=none &&
    run "$work/even.gif" && ! grep -q 'frame rate varies' "$work/std" && run "$work/uneven.gif" &&
    grep -q 'note: its frame rate varies' "$work/std"
ok 'a clip of variable rate is noted'

# ---- clips that are not whole -----------------------------------------------------------------------------------------

run "$work/one.safetensors" --json && grep -q '"temporal_flickering":null' "$work/std" &&
    grep -q '"notes":{.*"temporal_flickering":"one frame' "$work/std"
ok 'one frame: null, and the reason'
run "$work/tiny.safetensors" --json && grep -q '"ssim_prev":null' "$work/std" && grep -q 'at least 11 pixels' "$work/std" &&
    grep -q '"temporal_flickering":0.92' "$work/std"
ok 'a clip too small for some metrics has the others'
refuses 1 "$work/none.mp4" 'a clip that is not there is named' "$work/none.mp4"
mkdir "$work/empty"
refuses 1 "$work/empty" 'a folder without pictures is named' "$work/empty"
head -c 900 "$work/two.safetensors" > "$work/cut.safetensors"
refuses 1 'whose bytes are not all there' 'a tensor that was cut is refused' "$work/cut.safetensors"
printf '\377\377\377\377\377\377\377\177{}' > "$work/lie.safetensors"
refuses 1 'no header that fits' 'a header that lies about its length is refused' "$work/lie.safetensors"
run "$work/two.safetensors" "$work/none.mp4" "$work/still.safetensors" --metric psnr_prev --json
[ $? = 1 ] && [ "$(grep -o '"psnr_prev":[0-9]' "$work/std" | wc -l)" = 2 ] &&
    grep -q "1 of 3 clips could not be measured: $work/none.mp4" "$work/err" && grep -q '"failed":\[{"path"' "$work/std"
ok 'one bad clip of three does not stop the others; the status is 1'

# ---- orders that cannot be --------------------------------------------------------------------------------------------

refuses 2 'no clip is given' 'no clip is refused'
refuses 2 'did you mean ssim_prev?' 'an unknown score is refused, the nearest named' "$work/two.safetensors" --metric ssim_prv
refuses 2 'antialias' '--antialias is 0 or 1' "$work/two.safetensors" --antialias 2
refuses 2 '--with belongs to --features' '--with alone is refused' "$work/two.safetensors" --with x
refuses 1 'cannot be written' 'a report without a place is refused before the work' "$work/two.safetensors" --report "$work/no/x.html"
run "$work/clip.y4m" "$work/still.safetensors" --report "$work/report.html" --quiet && [ -s "$work/report.html" ] &&
    grep -q 'clip.y4m' "$work/report.html" && ! grep -qE '(src|href)="https?:' "$work/report.html"
ok '--report writes a page of its own'

echo "$((n - failed)) passed, $failed failed"
[ $failed = 0 ]
