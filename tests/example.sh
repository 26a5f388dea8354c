#!/usr/bin/env bash
# The programs in examples/ are built with the library alone and do what their heads say. Usage: tests/example.sh BUILD_FOLDER
set -u
build=${1:?usage: tests/example.sh BUILD_FOLDER}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
number=0 bad=0

check() { # check SENTENCE COMMAND...
    local sentence=$1
    shift
    number=$((number + 1))
    if "$@" > "$work/log" 2>&1; then
        echo "ok $number - $sentence"
    else
        echo "not ok $number - $sentence"
        sed 's/^/# /' "$work/log"
        bad=1
    fi
}

steady() {
    "$build/examples/steady" models/toyworld 'a large red circle moving right over a checkered black background' \
        "$work/clip.y4m" 2 && [ "$(head -c 9 "$work/clip.y4m")" = YUV4MPEG2 ]
}

# Low band of z, high band of the fresh noise: the start is as strong as noise, and its low band looks like the clip.
bands() {
    "$build/examples/reinit_only" > "$work/bands" && cat "$work/bands" && awk '
        NR > 1 { low[$1] = $2; high[$1] = $3; like[$1] = $4 }
        function near(x, y, by) { return x > y - by && x < y + by }
        END { exit !(near(low["start"] + high["start"], 1, 0.03) && near(low["start"], low["z"], 0.001) &&
                     near(high["start"], high["fresh"], 0.01) && near(like["start"], like["z"], 0.05) &&
                     like["clip"] > 0.999 && like["start"] > 0.4 && near(like["fresh"], 0, 0.1) && NR == 6) }' "$work/bands"
}

# What it writes it can read: the bands of that clip are those of the start before.
written() {
    "$build/examples/reinit_only" tests/golden/runs/ad_plain.in.safetensors "$work/start.safetensors" > "$work/first" &&
        "$build/examples/reinit_only" "$work/start.safetensors" > "$work/second" && cat "$work/first" "$work/second" &&
        [ "$(awk '$1 == "start" { print $2, $3 }' "$work/first")" = "$(awk '$1 == "clip" { print $2, $3 }' "$work/second")" ]
}

# A file without such a tensor: status 1, the reason, no output.
refused() {
    "$build/examples/reinit_only" tests/golden/rng.safetensors "$work/none.safetensors" > "$work/out" 2> "$work/err"
    [ $? = 1 ] && [ ! -s "$work/out" ] && grep -q 'latents' "$work/err" && [ ! -e "$work/none.safetensors" ]
}

check 'steady writes a clip' steady
check 'reinit_only keeps the low band of the last result and the high band of fresh noise' bands
check 'reinit_only writes latents that it reads again' written
check 'reinit_only refuses a file without latents' refused
[ "$bad" = 0 ]
