#!/usr/bin/env bash
# Trains the bundled model on: its image network on single frames, then its motion modules on that network, both frozen parts
# as they are (make train-toyworld). Interrupted it goes on where it was. The result is FOLDER/model, with its figures in
# FOLDER/judge.md; nothing in models/ is changed.   tools/train_toyworld.sh BUILD FOLDER [IMAGE_STEPS [MOTION_STEPS]]
set -eu
build=${1:?usage: tools/train_toyworld.sh BUILD FOLDER [IMAGE_STEPS [MOTION_STEPS]]} out=${2:?a folder} image=${3:-60000} motion=${4:-20000}
mkdir -p "$out"

# A model folder of links to the bundled one, so that stages replace parts of it.
links() {
    mkdir -p "$1"
    for part in model_index.json scheduler text_encoder tokenizer vae unet motion_adapter; do
        ln -sfn "$PWD/models/toyworld/$part" "$1/$part"
    done
}

# Steps of 32 frames; scenes below 900,000 are learnt from, those from 1,000,000 on are kept for the judge.
"$build/gimbal" train --recipe image --model models/toyworld --data toyworld:count=900000 -o "$out/image" --resume \
    --steps "$image" --batch 32 --micro 32 --lr 4e-4 --warmup 300 --schedule cosine --debiased 1 --caption-dropout 0.12 \
    --ema 0.9995 --cache none --save-every 1000 --keep 2 --validation 32 --validate-every 2000 > "$out/image.last"
links "$out/painter"
ln -sfn "$(realpath "$(tail -n 1 "$out/image.last")")/ema/unet" "$out/painter/unet"

"$build/gimbal" train --recipe motion --model "$out/painter" --data toyworld:count=900000 -o "$out/motion" --resume \
    --steps "$motion" --batch 8 --micro 4 --lr 4e-4 --warmup 300 --schedule cosine --debiased 1 --caption-dropout 0.1 \
    --ema 0.9995 --cache none --save-every 250 --keep 2 --validation 16 --validate-every 1000 --save-type F16 > "$out/motion.last"

rm -rf "$out/model.new"
cp -rL models/toyworld "$out/model.new"
"$build/gimbal" train --recipe image --model "$out/painter" --data toyworld:count=64 -o "$out/half" --resume --steps 1 --lr 0 --ema 0 \
    --batch 1 --cache none --validation 0 --validate-every 0 --save-type F16 > "$out/half.last" # the same weights in half precision
cp "$(tail -n 1 "$out/half.last")"/weights/unet/* "$out/model.new/unet/"
cp "$(tail -n 1 "$out/motion.last")"/ema/motion_adapter/* "$out/model.new/motion_adapter/"
rm -rf "$out/model"
mv "$out/model.new" "$out/model"
"$build/judge" "$out/model" | tee "$out/judge.md"
