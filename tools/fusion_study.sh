#!/usr/bin/env bash
# The evidence for VideoFusion on the toy world (docs/RESULTS.md): every variant is trained equally long from the bundled image
# network, for several seeds; the judge reads clips of held-out captions. One line of JSON a run goes into FOLDER/runs.jsonl; what
# is there is not made again, and an interrupted training goes on. Then a table in Markdown, means with 95 % intervals over seeds.
#     tools/fusion_study.sh BUILD FOLDER [STEPS [SEEDS [CLIPS]]]      make study-videofusion
set -eu
export GOMP_SPINCOUNT=1000 # as the program sets it for itself: the cores may be shared with other work
build=${1:?usage: tools/fusion_study.sh BUILD FOLDER [STEPS [SEEDS [CLIPS]]]} out=${2:?a folder} steps=${3:-400} seeds=${4:-3} clips=${5:-24}
mkdir -p "$out"
touch "$out/runs.jsonl"

# name, flags. Both networks learn, the base at a tenth of the rate, unless it says otherwise; layers over time begin anew.
variants=(
    'video U-Net|--recipe motion --train *'
    'lambda 0.5|--residual video'
    'frame by frame|'
    'lambda 0|--residual video --lambda 0'
    'lambda 0.1|--residual video --lambda 0.1'
    'lambda 0.3|--residual video --lambda 0.3'
    'lambda 0.7|--residual video --lambda 0.7'
    'lambda 0.9|--residual video --lambda 0.9'
    'base frozen|--residual video --freeze-base 1'
    'base random|--residual video --fresh 1'
    'frame by frame, no stop-gradient|--stop-gradient 0 --micro 1'
)

# New motion modules: the adapter's config without its weights.
adapter=$out/new_adapter
mkdir -p "$adapter"
cp models/toyworld/motion_adapter/config.json "$adapter"

run() { # NAME FLAGS SEED
    local folder="$out/$(tr -d ',' <<< "$1" | tr ' ' '-')-$3" flags
    read -ra flags <<< "--recipe videofusion $2"
    "$build/gimbal" train --model models/toyworld --motion "$adapter" --seed "$3" --data toyworld:count=8000 -o "$folder" --resume \
        --steps "$steps" --batch 8 --micro 4 --lr 4e-4 --warmup 50 --schedule cosine --debiased 1 --ema 0.995 --cache "$out/cache" \
        --frames 16 --save-every 200 --keep 1 --validation 0 --validate-every 0 --save-type F16 --quiet \
        "${flags[@]}" > /dev/null
    "$build/judge" "$folder/model" --clips "$clips" --json | sed "s/^{/{\"variant\":\"$1\",\"seed\":$3,\"steps_learnt\":$steps,/" >> "$out/runs.jsonl"
    rm -rf "$folder" # what is kept is its line
}

for seed in $(seq 1 "$seeds"); do
    for variant in "${variants[@]}"; do
        name=${variant%%|*}
        grep -qF "{\"variant\":\"$name\",\"seed\":$seed,\"steps_learnt\":$steps," "$out/runs.jsonl" || run "$name" "${variant#*|}" "$seed"
    done
done

# Student's t for 95 %, by degrees of freedom.
awk -v steps="$steps" '
function value(key,   at, rest) {
    at = index($0, "\"" key "\":"); if (!at) return ""
    rest = substr($0, at + length(key) + 3); sub(/[,}].*/, "", rest); gsub(/"/, "", rest); return rest
}
function cell(name, key,   n, mean, sd) {
    n = count[name]; mean = sum[name, key] / n
    if (n < 2) return sprintf("%.3f", mean)
    sd = squares[name, key] / n - mean * mean; sd = sd > 0 ? sqrt(sd * n / (n - 1)) : 0
    return sprintf("%.3f ± %.3f", mean, t[n - 1 > 10 ? 10 : n - 1] * sd / sqrt(n))
}
BEGIN {
    split("12.706 4.303 3.182 2.776 2.571 2.447 2.365 2.306 2.262 2.228", t, " ")
    keys = split("size|colour|shape|motion|background colour|texture|all|speed|jitter|ssim|seconds|megabytes", key, "|")
}
value("steps_learnt") == steps {
    name = value("variant"); if (!(name in count)) order[++names] = name
    count[name]++
    for (k = 1; k <= keys; k++) { x = value(key[k]); sum[name, key[k]] += x; squares[name, key[k]] += x * x }
}
END {
    printf "| variant | seeds |"; for (k = 1; k <= keys; k++) printf " %s |", key[k]; printf "\n|---|---|"
    for (k = 1; k <= keys; k++) printf "---|"; printf "\n"
    for (i = 1; i <= names; i++) {
        printf "| %s | %d |", order[i], count[order[i]]
        for (k = 1; k <= keys; k++) printf " %s |", cell(order[i], key[k]); printf "\n"
    }
}' "$out/runs.jsonl"
