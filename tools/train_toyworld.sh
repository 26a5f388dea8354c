#!/usr/bin/env bash
# Trains the bundled model on: its image network on single frames, then its motion modules on that network; text encoder and VAE
# stay (make train-toyworld). Interrupted it goes on where it was. The result is FOLDER/model, with its figures in
# FOLDER/judge.md; nothing in models/ is changed.   tools/train_toyworld.sh BUILD FOLDER [IMAGE_STEPS [MOTION_STEPS]]
set -eu
export GOMP_SPINCOUNT=1000 # as the program sets it for itself: the cores may be shared with other work
build=${1:?usage: tools/train_toyworld.sh BUILD FOLDER [IMAGE_STEPS [MOTION_STEPS]]} out=${2:?a folder} image=${3:-20000} motion=${4:-5000}
mkdir -p "$out"
# The first 8,000 scenes are learnt from, those from 1,000,000 on are kept for the judge. Encoding is half of a step's time: frames are
# kept, 1.4 GB at most.
common=(--data toyworld:count=8000 --resume --lr 4e-4 --warmup 300 --schedule cosine --debiased 1 --ema 0.9995 --cache "$out/cache"
    --keep 2 --save-type F16)

"$build/gimbal" train --recipe image --model models/toyworld -o "$out/image" "${common[@]}" --steps "$image" --batch 32 --micro 32 \
    --caption-dropout 0.12 --save-every 1000 --validation 32 --validate-every 2000 > /dev/null
"$build/gimbal" train --recipe motion --model "$out/image/model" -o "$out/motion" "${common[@]}" --steps "$motion" --batch 8 --micro 4 \
    --save-every 250 --validation 16 --validate-every 1000 > /dev/null

rm -rf "$out/model"
cp -rL "$out/motion/model" "$out/model"
"$build/judge" "$out/model" | tee "$out/judge.md"
