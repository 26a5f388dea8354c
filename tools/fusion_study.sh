#!/usr/bin/env bash
# The evidence for VideoFusion on the toy world (docs/RESULTS.md): every variant is trained equally long from the bundled image
# network and its layers over time, for several seeds; the judge reads clips of held-out captions. One line of JSON a run goes into
# FOLDER/runs.jsonl; what is there is not made again, and an interrupted training goes on. Then two tables in Markdown, with 95 %
# intervals over seeds: means, and differences from lambda 0.5 seed by seed.
#     tools/fusion_study.sh BUILD FOLDER [STEPS [SEEDS [CLIPS]]]      make study-videofusion
set -euo pipefail
export GOMP_SPINCOUNT=1000 # as the program sets it for itself: the cores may be shared with other work
build=${1:?usage: tools/fusion_study.sh BUILD FOLDER [STEPS [SEEDS [CLIPS]]]} out=${2:?a folder} steps=${3:-250} seeds=${4:-3} clips=${5:-48}
mkdir -p "$out"
touch "$out/runs.jsonl"

# name, flags. Both networks learn, the base at a tenth of the rate, unless it says otherwise.
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

run() { # NAME FLAGS SEED
    local folder="$out/$(tr -d ',' <<< "$1" | tr ' ' '-')-$3" flags
    read -ra flags <<< "--recipe videofusion $2"
    "$build/gimbal" train --model models/toyworld --seed "$3" --data toyworld:count=8000 -o "$folder" --resume \
        --steps "$steps" --batch 8 --micro 4 --lr 4e-4 --warmup 50 --schedule cosine --debiased 1 --ema 0.99 --cache "$out/cache" \
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

# Student's t for 95 %, by degrees of freedom. Shares of the clips in percent.
awk -v steps="$steps" '
function value(key,   at, rest) {
    at = index($0, "\"" key "\":"); if (!at) return ""
    rest = substr($0, at + length(key) + 3)
    if (sub(/^"/, "", rest)) sub(/".*/, "", rest); else sub(/[,}].*/, "", rest)
    return rest
}
function interval(n, sum, squares, form,   mean, sd) {
    mean = sum / n
    if (n < 2) return sprintf(form, mean)
    sd = squares / n - mean * mean; sd = sd > 0 ? sqrt(sd * n / (n - 1)) : 0
    return sprintf(form " ± " form, mean, t[n - 1 > 10 ? 10 : n - 1] * sd / sqrt(n))
}
function cell(name, from, k, form,   seed, n, sum, squares, x) { # from "": the variant itself
    for (seed = 1; seed <= seeds; seed++)
        if ((name, seed, k) in score && (from == "" || (from, seed, k) in score)) {
            x = score[name, seed, k] - (from == "" ? 0 : score[from, seed, k])
            n++; sum += x; squares += x * x
        }
    return n ? interval(n, sum, squares, form) : ""
}
function table(title, from,   i, k) {
    printf "| %s | seeds |", title; for (k = 1; k <= keys; k++) printf " %s |", key[k] (k <= 4 ? ", %" : ""); printf "\n|---|---|"
    for (k = 1; k <= keys; k++) printf "---|"; printf "\n"
    for (i = 1; i <= names; i++) {
        if (order[i] == from) continue
        printf "| %s | %d |", order[i], count[order[i]]
        for (k = 1; k <= keys; k++) printf " %s |", cell(order[i], from, k, form[k]); printf "\n"
    }
}
BEGIN {
    split("12.706 4.303 3.182 2.776 2.571 2.447 2.365 2.306 2.262 2.228", t, " ")
    keys = split("colour|shape|motion|all|speed|jitter|ssim|seconds|megabytes", key, "|")
    split("%.0f|%.0f|%.0f|%.0f|%.1f|%.1f|%.3f|%.2f|%.1f", form, "|")
}
value("steps_learnt") == steps {
    name = value("variant"); if (!(name in count)) order[++names] = name
    count[name]++
    seed = value("seed") + 0; if (seed > seeds) seeds = seed
    for (k = 1; k <= keys; k++) score[name, seed, k] = value(key[k]) * (k <= 4 ? 100 : 1)
}
END {
    table("variant", "")
    printf "\n"
    table("less lambda 0.5", "lambda 0.5")
}' "$out/runs.jsonl"
