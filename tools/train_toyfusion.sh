#!/usr/bin/env bash
# Trains VideoFusion on the toy world: the base is the bundled image network, which stays as it is, the residual's network begins as
# the same with the bundled motion modules (make train-toyfusion). Interrupted it goes on where it was. The result is FOLDER/model,
# with its figures in FOLDER/judge.md; models/toyfusion is its residual/ and videofusion.json beside links.
#     tools/train_toyfusion.sh BUILD FOLDER [STEPS]
set -eu
export GOMP_SPINCOUNT=1000 # as the program sets it for itself: the cores may be shared with other work
build=${1:?usage: tools/train_toyfusion.sh BUILD FOLDER [STEPS]} out=${2:?a folder} steps=${3:-2200}
mkdir -p "$out"
"$build/gimbal" train --recipe videofusion --model models/toyworld --residual video --freeze-base 1 -o "$out/run" \
    --data toyworld:count=8000 --resume --frames 16 --steps "$steps" --batch 8 --micro 4 --lr 5e-4 --warmup 50 --schedule cosine \
    --debiased 1 --ema 0.998 --keep 2 --save-type F16 --save-every 250 --validation 16 --validate-every 500 > /dev/null
rm -rf "$out/model"
cp -rL "$out/run/model" "$out/model"
rm -rf "$out/model/unet" "$out/model/motion_adapter" # the base lies in base/, and nothing else moves
"$build/judge" "$out/model" | tee "$out/judge.md"
