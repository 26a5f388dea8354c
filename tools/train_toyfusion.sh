#!/usr/bin/env bash
# Trains VideoFusion on the toy world: the base begins as the bundled image network, the residual's network as the base
# (make train-toyfusion). Interrupted it goes on where it was. The result is FOLDER/model, with its figures in FOLDER/judge.md.
#     tools/train_toyfusion.sh BUILD FOLDER [STEPS]
set -eu
export GOMP_SPINCOUNT=1000 # as the program sets it for itself: the cores may be shared with other work
build=${1:?usage: tools/train_toyfusion.sh BUILD FOLDER [STEPS]} out=${2:?a folder} steps=${3:-6000}
mkdir -p "$out"
"$build/gimbal" train --recipe videofusion --model models/toyworld -o "$out/run" --data toyworld:count=8000 --resume --frames 16 \
    --steps "$steps" --batch 8 --micro 4 --lr 4e-4 --warmup 300 --schedule cosine --debiased 1 --ema 0.9995 \
    --keep 2 --save-type F16 --save-every 250 --validation 16 --validate-every 1000 > /dev/null
rm -rf "$out/model"
cp -rL "$out/run/model" "$out/model"
rm -rf "$out/model/unet" "$out/model/motion_adapter" # the base lies in base/, and nothing else moves
"$build/judge" "$out/model" | tee "$out/judge.md"
