#!/usr/bin/env bash
# The program in examples/ is built with the library alone and makes a clip.
set -u
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if "$1/examples/steady" models/toyworld 'a large red circle moving right over a checkered black background' \
    "$work/clip.y4m" 2 && [ "$(head -c 9 "$work/clip.y4m")" = YUV4MPEG2 ]; then
    echo 'ok 1 - the example writes a clip'
else
    echo 'not ok 1 - the example writes a clip'
    exit 1
fi
