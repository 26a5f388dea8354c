#!/usr/bin/env bash
# gimbal compare and gimbal measure --features, from outside: who is paired with whom, what is refused, what is found.
# Usage: tests/cli_compare.sh build/release/gimbal   (from the top of the checkout). Prints "ok N - name" lines and closes
# with "N passed, N failed".
set -u
G=$(realpath "${1:?usage: tests/cli_compare.sh PROGRAM}")
source tests/kit/cases.sh

# run ARGS: stdout and stderr into files; the program's own status.
run() { timeout 120 "$G" "$@" > "$work/std" 2> "$work/err"; }

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

# clip FILE SEED SPEED JITTER FRAMES WIDTH HEIGHT: waves that move SPEED pixels a frame; every second frame is JITTER
# brighter.
clip() {
    printf 'YUV4MPEG2 W%d H%d F8:1 Ip A1:1 C444\n' "$6" "$7" > "$1"
    LC_ALL=C awk -v seed="$2" -v speed="$3" -v jitter="$4" -v frames="$5" -v w="$6" -v h="$7" 'BEGIN {
        for (t = 0; t < frames; t++) {
            printf "FRAME\n"
            for (y = 0; y < h; y++) for (x = 0; x < w; x++)
                printf "%c", int(126 + 40 * sin((x - speed * t) / 4 + seed) + 30 * sin(y / 5 + x / 9 + 2 * seed) + jitter * (t % 2))
            for (i = 0; i < 2 * w * h; i++) printf "%c", 128
        }
    }' >> "$1"
}

# st FILE HEADER BYTES...: a safetensors file with this header and these octal-escaped bytes behind it.
st() {
    local size=${#2} i
    for i in 0 8 16 24 32 40 48 56; do printf "\\x$(printf %x $((size >> i & 255)))"; done > "$1"
    printf %s "$2" >> "$1"
    printf "$3" >> "$1"
}
zero='\x00\x00\x00\x00' one='\x00\x00\x80\x3f' minus='\x00\x00\x80\xbf' two='\x00\x00\x00\x40' thousand='\x00\x00\x7a\x44'
nan='\x00\x00\xc0\x7f'

# ---- distances of sets ------------------------------------------------------------------------------------------------

features='{"features":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]}}'
logits='{"logits":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
st "$work/x.safetensors" "$features" "$one$zero$minus$zero$zero$zero"
st "$work/y.safetensors" "$features" "$two$zero$zero$zero$one$zero"
st "$work/l.safetensors" "$logits" "$thousand$zero$zero$thousand"
st "$work/nan.safetensors" "$features" "$one$zero$minus$nan$zero$zero"
st "$work/wide.safetensors" '{"features":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}' "$one$zero$minus$zero$zero$one"
st "$work/single.safetensors" '{"features":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}' "$one$zero"
st "$work/deep.safetensors" '{"features":{"dtype":"F32","shape":[2,1,2],"data_offsets":[0,16]}}' "$one$zero$zero$one"
st "$work/other.safetensors" '{"latents":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}' "$one$zero"

run measure --features "$work/x.safetensors" --with "$work/y.safetensors" --json &&
    grep -q '"n":3,"m":3,"d":2' "$work/std" && grep -q '"frechet":\(1.0\|0.99999999\|1.00000000\)' "$work/std" &&
    grep -q '"is":null' "$work/std" && grep -q 'no tensor .*logits' "$work/std" && [ ! -s "$work/err" ]
ok 'two sets one apart have Frechet distance 1; no logits, no inception score, and that is said'
run measure --features "$work/x.safetensors" --with "$work/x.safetensors" --metric frechet --json &&
    grep -q '"scores":{"frechet":[0-9.e-]*}' "$work/std" && ! grep -q '"frechet":[1-9]' "$work/std"
ok 'a set against itself; --metric names what is computed'
run measure --features "$work/l.safetensors" --metric is --json && grep -q '"is":2.0' "$work/std" && grep -q '"m":null' "$work/std"
ok 'the inception score of two clips of two classes is 2, without --with'
run measure --features "$work/l.safetensors" --with "$work/l.safetensors" --metric frechet && grep -q 'are the features' "$work/std" &&
    grep -q 'biased far upwards' "$work/std"
ok 'logits serve as features, and what few samples mean is said'
refuses 1 'row 1, column 1' 'a number that is none is named with file, row and column' \
    measure --features "$work/x.safetensors" --with "$work/nan.safetensors"
refuses 2 'values' 'sets of different width are refused' measure --features "$work/x.safetensors" --with "$work/wide.safetensors"
refuses 2 '1 samples' 'one sample is no set' measure --features "$work/single.safetensors" --with "$work/x.safetensors"
refuses 1 'expected [samples,values]' 'a tensor of three axes is refused' \
    measure --features "$work/deep.safetensors" --with "$work/x.safetensors"
refuses 1 'found neither' 'a file without features is refused' measure --features "$work/other.safetensors" --with "$work/x.safetensors"
refuses 1 "$work/none.safetensors" 'a file that is not there is named' measure --features "$work/none.safetensors" --metric is
refuses 2 'frechet' 'an unknown distance is refused' measure --features "$work/x.safetensors" --with "$work/y.safetensors" --metric frechte
refuses 2 '--with is missing' 'a distance needs two sets' measure --features "$work/x.safetensors" --metric kvd

mkdir "$work/clips" "$work/no-nets"
clip "$work/clips/one.y4m" 1 1 0 9 32 32
clip "$work/clips/two.y4m" 2 2 0 17 32 40
refuses 2 '--weights is missing' 'a folder of clips needs the network that makes features' \
    measure --features "$work/clips" --with "$work/clips"
refuses 1 'no-nets' 'a folder without that network is named' \
    measure --features "$work/clips" --with "$work/clips" --weights "$work/no-nets" --quiet
nets=tests/golden/metric/nets
run measure --features "$work/clips" --with "$work/clips" --weights $nets --json && grep -q '"n":2,"m":2,"d":400' "$work/std" &&
    grep -q '"is":[1-9]' "$work/std" && grep -q 'first 16 frames' "$work/std" && grep -q '^clip 2/2' "$work/err" &&
    ! grep -q '"frechet":[1-9]' "$work/std"
ok 'logits of clips in a folder, and its distance from itself'
clip "$work/clips/short.y4m" 1 1 0 8 32 32
refuses 2 'short.y4m has 8 frames' 'a clip too short for it is named' \
    measure --features "$work/clips" --with "$work/clips" --weights $nets --quiet

# ---- pairs ------------------------------------------------------------------------------------------------------------

mkdir "$work/a" "$work/b" "$work/frozen" "$work/odd" "$work/short" "$work/empty" "$work/lone"
for i in 1 2 3 4 5 6 7 8; do
    clip "$work/a/c$i.y4m" $i 2 $((6 + i)) 6 40 32 &
    clip "$work/b/c$i.y4m" $i 2 0 6 40 32 &
    clip "$work/frozen/c$i.y4m" $i 0 0 6 40 32 &
    wait
done
cp "$work/a/c1.y4m" "$work/a/c2.y4m" "$work/odd"
clip "$work/short/c1.y4m" 1 2 0 4 40 32
clip "$work/lone/c1.y4m" 1 2 0 6 48 32
echo 'not a clip' > "$work/a/notes.txt"
flicker='--metric temporal_flickering --quiet'

refuses 2 '--with is missing' 'without --with there is nothing to compare' compare "$work/a"
refuses 2 'no clip stands before' 'without A neither' compare --with "$work/b" "$work/a"
refuses 2 'no clip in this folder' 'an empty folder is refused' compare "$work/a" --with "$work/empty"
refuses 2 'c8.y4m' 'clips without a partner are named' compare "$work/a" --with "$work/odd" --quiet
refuses 2 '6 clips have no partner' 'and counted' compare "$work/a" --with "$work/odd" --quiet
refuses 2 'cannot be told apart' 'two clips of one name on one side are refused' \
    compare "$work/a/c1.y4m" "$work/b/c1.y4m" --with "$work/a/c1.y4m"
refuses 2 '40x32 with 6 frames' 'clips of different length are refused with both numbers' \
    compare "$work/a/c1.y4m" --with "$work/short/c1.y4m" --quiet
refuses 2 '48x32' 'clips of different size too' compare "$work/a/c1.y4m" --with "$work/lone/c1.y4m" --quiet
refuses 2 'no clip has a partner' 'other names are no pair' compare "$work/a/c1.y4m" --with "$work/b/c2.y4m"
refuses 2 'auto, name, recipe, order' 'another way to pair is refused' compare "$work/a" --with "$work/b" --by size
refuses 2 'temporal_flickering' 'an unknown score names the nearest' compare "$work/a" --with "$work/b" --metric temporal_flicker --quiet
refuses 1 "$work/none/x.html" 'a report that cannot be written is refused before any work' \
    compare "$work/a" --with "$work/b" --report "$work/none/x.html"
refuses 1 "$work/a/none.y4m" 'a clip that is not there is named' compare "$work/a/none.y4m" --with "$work/b/c1.y4m" --by order
run compare "$work/a" --with "$work/odd" --partial --json $flicker && grep -q '"pairs":2,' "$work/std" &&
    grep -q '6 clips were left out' "$work/std" && grep -q '"left_out":\["[^]]*c8.y4m"\]' "$work/std"
ok '--partial compares the pairs there are and says what was left out'
run compare "$work/a/c1.y4m" "$work/a/c2.y4m" --with "$work/b/c3.y4m" "$work/b/c4.y4m" --by order --json $flicker &&
    grep -q '"pairs":2,"by":"order"' "$work/std" && grep -q '"a":"[^"]*a/c2.y4m","b":"[^"]*b/c4.y4m"' "$work/std"
ok '--by order pairs clips as they stand; words after --with are B'
run compare "$work/a/c1.y4m" --with "$work/b" --with "$work/odd" --json $flicker
[ $? = 2 ] && grep -q 'cannot be told apart' "$work/err"
ok '--with may be repeated'

# A recipe is a clip's own; two prompts in the other order, under other names.
recipe() { printf '{"gimbal":"0","model":"m","settings":{"prompt":"%s","seed":"%s"}}' "$2" "$3" > "$1.json"; }
mkdir "$work/ra" "$work/rb"
cp "$work/a/c1.y4m" "$work/ra/p.y4m" && recipe "$work/ra/p.y4m" cat 1
cp "$work/a/c2.y4m" "$work/ra/q.y4m" && recipe "$work/ra/q.y4m" dog 1
cp "$work/b/c2.y4m" "$work/rb/x.y4m" && recipe "$work/rb/x.y4m" dog 1
cp "$work/b/c1.y4m" "$work/rb/y.y4m" && recipe "$work/rb/y.y4m" cat 1
run compare "$work/ra" --with "$work/rb" --json $flicker && grep -q '"by":"recipe"' "$work/std" &&
    grep -q '"a":"[^"]*ra/p.y4m","b":"[^"]*rb/y.y4m"' "$work/std"
ok 'other names, the same prompts and seeds: paired by recipe'
recipe "$work/rb/y.y4m" cat 2
refuses 2 'p.y4m' 'another seed is no partner' compare "$work/ra" --with "$work/rb" --by recipe --quiet

# ---- what is found ------------------------------------------------------------------------------------------------------

run compare "$work/a" --with "$work/b" --json --metric temporal_flickering && grep -q '"pairs":8,"by":"name"' "$work/std" &&
    grep -o '"temporal_flickering":{"pairs":8[^}]*}' "$work/std" | head -n 1 > "$work/row" &&
    grep -q '"permutation_p":0.0078125' "$work/row" && grep -q '"wilcoxon_p":0.0078125' "$work/row" &&
    grep -q '"wins":8,"ties":0,"losses":0' "$work/row" && grep -q '"a_interval":\[0.9[0-9]*,0.9[0-9]*\]' "$work/row" && grep -q '"verdict":"higher","better":"b"' "$work/row" &&
    grep -q '^clip 16/16, .* ETA 0:00' "$work/err"
ok 'flicker that is gone is found, with the exact p of 8 pairs; progress tells of 16 clips'
cp "$work/std" "$work/first"
run compare "$work/a" --with "$work/b" --json $flicker && cmp "$work/std" "$work/first" && [ ! -s "$work/err" ]
ok 'the same numbers again; --quiet says nothing'
run compare "$work/a" --with "$work/a" --json --quiet && ! grep -q '"verdict":"\(higher\|lower\)"' "$work/std" &&
    grep -o '"temporal_flickering":{"pairs":8[^}]*}' "$work/std" | grep -q '"difference":0.0,"low":0.0,"high":0.0,"wilcoxon_p":1.0,"permutation_p":1.0'
ok 'a set against itself shows no difference'
run compare "$work/a" --with "$work/b" $flicker && grep -q '^temporal_flickering .*B higher: better$' "$work/std" &&
    grep -q '8/0/0' "$work/std" && grep -q '^8 pairs by name' "$work/std" && grep -q 'Holm' "$work/std"
ok 'the table says the same, and what a verdict needs'
run compare "$work/b/c1.y4m" "$work/b/c2.y4m" --with "$work/a/c1.y4m" "$work/a/c2.y4m" $flicker &&
    grep -q 'no difference can be shown' "$work/std" && grep -q 'no difference shown$' "$work/std"
ok 'two pairs: no verdict, and why'
run compare "$work/a/c1.y4m" --with "$work/b/c1.y4m" --json $flicker && grep -q '"pairs":1,' "$work/std" &&
    grep -q '"permutation_p":null' "$work/std" && grep -q '1 pair: sign flips' "$work/std"
ok 'one pair has a difference, but no statistics'
mkdir "$work/la" "$work/lb"
for i in 1 3; do
    cp "$work/a/c$i.y4m" "$work/la" && cp "$work/b/c$i.y4m" "$work/lb"
done
clip "$work/la/c2.y4m" 1 2 9 3 40 32
clip "$work/lb/c2.y4m" 1 2 0 3 40 32
clip "$work/la/c4.y4m" 1 2 9 1 40 32
cp "$work/la/c4.y4m" "$work/lb"
run compare "$work/la" --with "$work/lb" --json $flicker && grep -q '"temporal_flickering":{"pairs":3,.*"micro_a":0.9' "$work/std" &&
    grep -q 'clips differ in length' "$work/std" && grep -q 'temporal_flickering is defined for 3 of 4 pairs' "$work/std" &&
    grep -q '"temporal_flickering":{"a":null,"b":null}' "$work/std"
ok 'means over clips and over pairs of frames stand side by side where they differ; a score that is not defined is left out and said'
if "$G" measure "$work/a/c1.y4m" --metric motion_magnitude > /dev/null 2>&1; then
    run compare "$work/a" --with "$work/frozen" --json $flicker && grep -q 'bought by freezing' "$work/std" &&
        grep -q '"motion_magnitude":{"pairs":8' "$work/std" && grep -q '"static":{"a":0,"b":8}' "$work/std" &&
        grep -q 'static clips: 0 of A, 8 of B' "$work/std"
    ok 'frozen clips are called so: motion is always measured beside consistency'
    run compare "$work/frozen" --with "$work/a" $flicker && grep -q "freezing: A's" "$work/std"
    ok 'on the other side too'
    run compare "$work/a" --with "$work/b" --json --quiet && ! grep -q freezing "$work/std" && grep -q '"warp_error"' "$work/std"
    ok 'steadier with the same motion is not called frozen'
else
    run compare "$work/a" --with "$work/frozen" --json $flicker && grep -q 'motion was not measured' "$work/std"
    ok 'without optical flow it is said that freezing cannot be seen'
fi

# ---- the report ---------------------------------------------------------------------------------------------------------

run compare "$work/a" --with "$work/b" $flicker --report "$work/r.html" && grep -q '</html>' "$work/r.html" &&
    grep -q 'temporal_flickering' "$work/r.html" && grep -q 'differ most' "$work/r.html" && grep -q 'a/c8.y4m' "$work/r.html" &&
    [ "$(grep -o 'data:image/png' "$work/r.html" | wc -l)" -ge 6 ]
ok 'a report has the table, the intervals and the pairs that differ most'

echo "$((n - failed)) passed, $failed failed"
[ $failed = 0 ]
