#!/usr/bin/env bash
# A working day with the program: noise without a model, previews, model files that change or lie behind links, full disks,
# printed pages. The manner of tests/cli.sh. Usage: tests/cli_day.sh build/release/gimbal   (from the top of the checkout).
set -u
G=$(realpath "${1:?usage: tests/cli_day.sh PROGRAM}")
TINY="--model tests/golden/models/animatediff-tiny --motion tests/golden/models/animatediff-tiny-motion"
SMALL="--prompt cat --frames 5 --width 72 --height 40 --steps 2" # odd, not square
source tests/kit/cases.sh
disk=$work/disk
trap 'umount "$disk" 2> /dev/null; rm -rf "$work"' EXIT
mkdir "$disk"
"$G" --version | grep -q sanitizers && sanitized=1 || sanitized=

# ---- how a case is told ---------------------------------------------------------------------------------------------

# run ARGS: stdout and stderr into files; the program's own status.
run() { "$G" "$@" > "$work/std" 2> "$work/err"; }

# refuses STATUS TEXT NAME ARGS: that status, one error line that holds TEXT, nothing on stdout, no file left in $out.
refuses() {
    local want=$1 text=$2 name=$3 status
    shift 3
    run "$@"
    status=$?
    [ $status = "$want" ] && [ "$(grep -c '^gimbal: error: ' "$work/err")" = 1 ] && grep -qF -- "$text" "$work/err" &&
        [ ! -s "$work/std" ] && [ -z "$(ls -A "$out")" ]
    ok "$name"
}

bytes() { od -An -v -tx1 "$@" | tr -d ' \n'; }

# ---- noise: what it refuses -----------------------------------------------------------------------------------------

fresh
O="-o $out/x.npy"
refuses 2 '-o is missing' 'noise needs a place' noise
refuses 2 'unexpected argument' 'noise takes no words' noise white $O
refuses 2 'unknown ending' 'an ending that is no tensor file is refused' noise -o "$out/x.mp4"
refuses 2 'the layout is gimbal' '.latent belongs to comfyui' noise -o "$out/x.latent"
refuses 2 'multiples of 8' 'pixels are multiples of 8' noise $O --width 60
refuses 2 'expected HxW' 'a latent size is HxW' noise $O --latent-size 5x
refuses 2 'both given' 'two sizes exclude each other' noise $O --latent-size 5x9 --width 72
refuses 2 '--low needs --reinit' '--low needs a mask' noise $O --low a.npy
refuses 2 '--low FILE' '--reinit needs something to mix' noise $O --reinit freeinit
refuses 2 'belong together' '--first needs --alpha-bar' noise $O --reinit freeinit --low a --first b
refuses 2 '--mask needs --reinit' '--mask needs a re-initialiser' noise $O --mask "$out/m.npy"
refuses 2 'noise prior' 'an unknown prior is refused' noise $O --noise pink
refuses 2 'no low-pass filter' 'a re-initialiser without a filter has no mask' noise $O --reinit none --mask "$out/m.npy"
refuses 2 'can only start at 0' 'torch is one sequence' noise $O --rng torch --first-frame 3
refuses 2 'more than' 'a size beyond reason is refused' noise $O --frames 4096 --latent-size 1024x1024
refuses 1 'cannot be written' 'a folder that is not there is refused' noise -o "$out/no/x.npy"
refuses 1 'No such file' 'latents that are not there are named' noise $O --reinit freeinit --low "$work/none.npy"

# npy FILE HEADER BYTES
npy() {
    local size=$((${#2} + 1))
    printf "\x93NUMPY\x01\x00\\x$(printf %x $((size & 255)))\\x$(printf %x $((size >> 8)))%s\n" "$2" > "$1"
    head -c "$3" /dev/zero >> "$1"
}
bad_npy() { # NAME TEXT HEADER BYTES
    npy "$work/bad.npy" "$3" "$4"
    refuses 1 "$2" "npy: $1" noise $O --reinit freeinit --low "$work/bad.npy"
}
bad_npy 'doubles are refused' 'no float32' "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 4, 2, 2, 2), }" 256
bad_npy 'Fortran order is refused' 'Fortran' "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 4, 2, 2, 2), }" 128
bad_npy 'a file that is too short is refused' 'its size' "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4, 2, 2, 2), }" 127
bad_npy 'a file that is too long is refused' 'its size' "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4, 2, 2, 2), }" 129
bad_npy 'a shape that overflows is refused' 'overflows' \
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2147483647, 2147483647, 2147483647), }" 0
bad_npy 'a size of zero is refused' 'whole numbers' "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 0, 2), }" 0
bad_npy 'a shape without a number is refused' 'whole numbers' "{'descr': '<f4', 'fortran_order': False, 'shape': (1, x), }" 0
bad_npy 'no shape is refused' 'no shape' "{'descr': '<f4', 'fortran_order': False}" 0
bad_npy 'another shape than latents have is refused' 'expected [1,channels,frames' \
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 2, 2, 2), }" 256
printf 'PK\3\4 no array' > "$work/bad.npy"
refuses 1 'not a .npy file' 'npy: another file is refused' noise $O --reinit freeinit --low "$work/bad.npy"
printf '\x93NUMPY\x01\x00\xff\xffabc' > "$work/bad.npy"
refuses 1 'within its header' 'npy: a header that is cut is refused' noise $O --reinit freeinit --low "$work/bad.npy"

# ---- noise: what it makes -------------------------------------------------------------------------------------------

fresh
SIZE="--frames 5 --width 72 --height 40" # [4,5,5,9]
run noise $SIZE --seed 7 -o "$out/a.npy" && [ "$(cat "$work/std")" = "$out/a.npy" ] && [ ! -s "$work/err" ] &&
    [ "$(ls -A "$out")" = a.npy ] && [ "$(stat -c %s "$out/a.npy")" = $((128 + 4 * 900)) ] &&
    head -c 128 "$out/a.npy" | grep -aqF "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4, 5, 5, 9,), }" &&
    [ "$(bytes -N 10 "$out/a.npy")" = 934e554d505901007600 ] && [ "$(bytes -j 127 -N 1 "$out/a.npy")" = 0a ]
ok 'a .npy file is a header of 128 bytes and float32 values'
run noise --latent-size 5x9 --frames 5 --seed 7 -o "$out/b.npy" && cmp -s "$out/a.npy" "$out/b.npy" &&
    run noise $SIZE --seed 8 -o "$out/c.npy" && ! cmp -s "$out/a.npy" "$out/c.npy"
ok 'the same seed and size give the same file, another seed another'
run noise $SIZE --seed 7 -o "$out/a.safetensors" && run info "$out/a.safetensors" --json &&
    grep -q '"name":"latents","type":"F32","shape":\[1,4,5,5,9\]' "$work/std" && grep -q '"seed\\*":\\*"7' "$work/std" &&
    [ "$(bytes -j 128 "$out/a.npy")" = "$(tail -c 3600 "$out/a.safetensors" | bytes)" ]
ok 'a safetensors file holds "latents" [1,C,F,h,w] with the same values, and what was asked'
run noise $SIZE --seed 7 --layout diffusers -o "$out/d.safetensors" && run info "$out/d.safetensors" &&
    grep -qF '"latents", "type": "F32", "shape": [1, 4, 5, 5, 9]' "$work/std"
ok 'diffusers: "latents" [1,C,F,h,w]'
run noise $SIZE --seed 7 --layout diffusers-images -o "$out/e.safetensors" && run info "$out/e.safetensors" &&
    grep -qF '"latents", "type": "F32", "shape": [5, 4, 5, 9]' "$work/std"
ok 'diffusers-images: "latents" [F,C,h,w]'
run noise $SIZE --seed 7 --layout comfyui -o "$out/f.latent" && cp "$out/f.latent" "$work/f.safetensors" &&
    run info "$work/f.safetensors" && grep -qF '"latent_tensor", "type": "F32", "shape": [5, 4, 5, 9]' "$work/std" &&
    grep -qF '"latent_format_version_0", "type": "F32", "shape": [0]' "$work/std"
ok 'comfyui: "latent_tensor" [F,C,h,w] and the marker of a .latent file'
# channel 1 of frame 2: its place in [C,F,h,w] and in [F,C,h,w]
[ "$(tail -c 3600 "$out/a.safetensors" | bytes -j $((4 * 45 * (1 * 5 + 2))) -N 180)" = \
    "$(tail -c 3600 "$out/e.safetensors" | bytes -j $((4 * 45 * (2 * 4 + 1))) -N 180)" ]
ok 'frames before channels are the same values in another order'
run noise --frames 3 --first-frame 2 --width 72 --height 40 --seed 7 --layout diffusers-images -o "$out/g.safetensors" &&
    [ "$(tail -c $((3 * 720)) "$out/g.safetensors" | bytes)" = "$(tail -c $((3 * 720)) "$out/e.safetensors" | bytes)" ]
ok 'a clip in pieces is the clip: frames 2 to 4 begun at frame 2'
# with seed 7 and philox this is what the run itself would draw
run generate $TINY $SMALL --seed 7 -o "$out/1.y4m" -q && run generate $TINY $SMALL --seed 7 --latents "$out/a.safetensors" -o "$out/2.y4m" -q &&
    cmp -s "$out/1.y4m" "$out/2.y4m"
ok 'generate --latents takes what noise draws, and makes what it would have made itself'
for prior in $("$G" --version | sed -n 's/^noise: //p'); do
    run noise --noise "$prior" --frames 7 --latent-size 33x31 --json -o "$out/p.npy" &&
        awk -v RS=, -F: '/"mean"/ { m = $2 } /"rms"/ { r = $2 } END { exit !(m * m < 0.01 && r > 0.9 && r < 1.1) }' "$work/std"
    ok "$prior draws unit noise"
done

# ---- noise: mixing --------------------------------------------------------------------------------------------------

fresh
run noise $SIZE --seed 1 -o "$out/first.npy" && run noise $SIZE --seed 2 -o "$out/clip.npy" && run noise $SIZE --seed 3 -o "$out/fresh.npy"
run noise --seed 3 --reinit freeinit:ds=0,dt=0 --low "$out/clip.npy" -o "$out/none.npy" &&
    run noise --seed 3 --reinit freeinit:filter=box,ds=2,dt=2 --low "$out/clip.npy" -o "$out/all.npy" &&
    cat > "$work/near.awk" <<'AWK'
# two columns of numbers, the same within rounding
{ d = $1 - $2; if (d < 0) d = -d; if (d > 1e-5) bad++ } END { exit !(NR == 900 && !bad) }
AWK
near() { paste <(od -An -v -j 128 -w4 -tf4 "$1") <(od -An -v -j 128 -w4 -tf4 "$2") | awk -f "$work/near.awk"; }
near "$out/none.npy" "$out/fresh.npy" && near "$out/all.npy" "$out/clip.npy" && ! near "$out/clip.npy" "$out/fresh.npy"
ok 'a mask of nothing leaves the fresh noise, a mask of everything leaves LOW; sizes are those of LOW'
run noise --seed 3 --reinit freeinit --low "$out/clip.npy" -o "$out/on.npy" --json && grep -q '"reinit":"freeinit"' "$work/std" &&
    run noise --seed 3 --reinit freeinit --power on --low "$out/clip.npy" -o "$out/on2.npy" && cmp -s "$out/on.npy" "$out/on2.npy" &&
    run noise --seed 3 --reinit freeinit --power off --low "$out/clip.npy" -o "$out/off.npy" && ! cmp -s "$out/on.npy" "$out/off.npy" &&
    run noise --seed 3 --reinit freeinit:compat=1 --low "$out/clip.npy" -o "$out/c.npy" &&
    run noise --seed 3 --reinit freeinit:compat=1 --power off --low "$out/clip.npy" -o "$out/c2.npy" && cmp -s "$out/c.npy" "$out/c2.npy"
ok 'variance is kept by default, and with compat=1 it is not'
run noise --seed 3 --reinit freeinit:filter=box,ds=2,dt=2 --low "$out/clip.npy" --first "$out/first.npy" --alpha-bar 0.36 -o "$out/z.npy" &&
    paste <(od -An -v -j 128 -w4 -tf4 "$out/z.npy") <(paste <(od -An -v -j 128 -w4 -tf4 "$out/clip.npy") \
        <(od -An -v -j 128 -w4 -tf4 "$out/first.npy") | awk '{ printf "%.9g\n", 0.6 * $1 + 0.8 * $2 }') | awk -f "$work/near.awk"
ok 'a finished clip is noised again: sqrt(abar) clip + sqrt(1 - abar) first'
run noise $SIZE --seed 2 --layout comfyui -o "$out/clip.latent" && run noise --seed 3 --reinit freeinit --layout comfyui --low-scale 1 \
    --low "$out/clip.latent" -o "$out/mixed.latent" && run noise --seed 3 --reinit freeinit --layout diffusers-images --low "$out/clip.npy" -o "$out/w.npy"
[ $? = 1 ] && grep -q 'is --layout right' "$work/err" &&
    run noise --seed 3 --reinit freeinit --low "$out/clip.npy" --layout gimbal -o "$out/m.safetensors" &&
    [ "$(tail -c 3600 "$out/mixed.latent" | bytes -j 180 -N 180)" = "$(tail -c 3600 "$out/m.safetensors" | bytes -j $((5 * 180)) -N 180)" ]
ok 'LOW is read in the layout that is written, and the mix is the same in all of them'
run noise --seed 1 --reinit freeinit --low "$out/clip.npy" --first "$out/first.npy" --alpha-bar 0.1 -o "$out/same.npy"
[ $? = 2 ] && grep -q 'another --seed' "$work/err" && [ ! -e "$out/same.npy" ]
ok 'fresh noise that is the first noise again is refused'
run noise --frames 6 --reinit freeinit --low "$out/clip.npy" -o "$out/x.npy"
[ $? = 1 ] && grep -q 'asked for are 4,6,5,9' "$work/err" && [ ! -e "$out/x.npy" ]
ok 'sizes that are not those of LOW are refused with both'
run noise $SIZE --reinit freeinit:filter=gaussian --mask "$out/m.npy" && [ "$(cat "$work/std")" = "$out/m.npy" ] &&
    [ "$(od -An -j 128 -N 4 -tf4 "$out/m.npy" | tr -d ' ')" = 1 ] && [ "$(stat -c %s "$out/m.npy")" = $((128 + 4 * 225)) ]
ok '--mask writes the mask alone, one at frequency zero'

# ---- previews -------------------------------------------------------------------------------------------------------

fresh
run generate $TINY $SMALL --steps 3 -o "$out/x.y4m" -q && cp "$out/x.y4m" "$work/plain.y4m" &&
    run generate $TINY $SMALL --steps 3 -o "$out/x.y4m" --preview "$out/p.png" --preview-every 2 && cmp -s "$out/x.y4m" "$work/plain.y4m" &&
    [ "$(ls -A "$out" | tr '\n' ' ')" = 'p.png x.y4m x.y4m.json ' ] && run info "$out/p.png" && grep -q 'width: 72' "$work/std" &&
    grep -q 'height: 40' "$work/std"
ok '--preview leaves a picture of the clip, and the clip is the same'
run generate $TINY $SMALL -o "$out/y.y4m" --preview "$out/p%d.png"
[ $? = 2 ] && grep -q 'must name one picture' "$work/err"
ok 'a preview is one picture'
# begin TEXT ARGS: a run in the background that has said TEXT; its number in $pid.
begin() {
    local text=$1
    shift
    : > "$work/err"
    "$G" "$@" > "$work/std" 2> "$work/err" &
    pid=$!
    for _ in $(seq 1000); do grep -q "$text" "$work/err" && break || sleep 0.02; done
}
mkdir "$out/gone"
begin 'step 2/60' generate $TINY $SMALL --steps 60 --preview "$out/gone/q.png" --preview-every 1 -o "$out/z.y4m"
until rm -rf "$out/gone" 2> /dev/null; do :; done # a preview may be under way in it
wait $pid && [ "$(grep -c 'warning: no more previews: .*gone/q.png' "$work/err")" = 1 ] && [ -s "$out/z.y4m" ]
ok 'a preview that cannot be written is a warning, and the run goes on'

# ---- models behind links, half precision, changing files ------------------------------------------------------------

# hub NAME SOURCE: SOURCE as the hub's cache keeps it: files are links to blobs without an ending.
hub() {
    local cache=$work/hub/$1 i=0 file
    mkdir -p "$cache/blobs" "$cache/refs" "$cache/snapshots/abc123"
    printf abc123 > "$cache/refs/main"
    (cd "$2" && find . -type f) | while read -r file; do
        i=$((i + 1))
        cp "$2/$file" "$cache/blobs/$i"
        mkdir -p "$(dirname "$cache/snapshots/abc123/$file")"
        ln -s "$cache/blobs/$i" "$cache/snapshots/abc123/${file/.safetensors/$3.safetensors}"
    done
}
hub models--someone--tiny tests/golden/models/animatediff-tiny ''
hub models--someone--tiny-motion tests/golden/models/animatediff-tiny-motion ''
HUB="--model $work/hub/models--someone--tiny --motion $work/hub/models--someone--tiny-motion"
fresh
run generate $TINY $SMALL -o "$out/a.y4m" -q && run generate $HUB $SMALL -o "$out/b.y4m" -q && cmp -s "$out/a.y4m" "$out/b.y4m" &&
    run generate --model "$work/hub/models--someone--tiny/snapshots/abc123" --motion "$work/hub/models--someone--tiny-motion/snapshots/abc123" \
        $SMALL -o "$out/c.y4m" -q && cmp -s "$out/a.y4m" "$out/c.y4m"
ok 'a hub cache folder, and a snapshot in it, are models'
run info "$work/hub/models--someone--tiny" && grep -q 'family: animatediff' "$work/std"
ok 'info describes one'
hub models--half--tiny tests/golden/models/animatediff-tiny .fp16
hub models--half--tiny-motion tests/golden/models/animatediff-tiny-motion .fp16
run generate --model "$work/hub/models--half--tiny" --motion "$work/hub/models--half--tiny-motion" $SMALL -o "$out/d.y4m" -q &&
    cmp -s "$out/a.y4m" "$out/d.y4m"
ok 'weights called .fp16.safetensors are found'
rm -f "$work"/hub/models--half--tiny/blobs/*
run generate --model "$work/hub/models--half--tiny" $SMALL -o "$out/e.y4m"
[ $? = 1 ] && grep -q '^  hint: ' "$work/err" && [ ! -e "$out/e.y4m" ]
ok 'links that lead nowhere are an error with a hint'

# shrinks ARGS: a run on a copy of the small model whose weights are cut at step 2; status in $status.
shrinks() {
    rm -rf "$work/m" && cp -r tests/golden/models/animatediff-tiny "$work/m"
    cp -r tests/golden/models/animatediff-tiny-motion "$work/m/motion_adapter" && chmod -R u+w "$work/m"
    begin 'step 2/60' generate --model "$work/m" $SMALL --steps 60 "$@"
    truncate -s 4096 "$work/m/unet/diffusion_pytorch_model.safetensors"
    wait $pid
    status=$?
}
fresh
shrinks -o "$out/x.mp4" --save-latents "$out/l.safetensors" --save-passes "$out/p" --preview "$out/q.png" --preview-every 500
[ $status = 1 ] && [ "$(grep -c '^gimbal: error: ' "$work/err")" = 1 ] && [ ! -s "$work/std" ] && [ -z "$(ls -A "$out")" ] &&
    grep -q "^gimbal: error: $work/m/unet/diffusion_pytorch_model.safetensors: changed while in use$" "$work/err" &&
    grep -q 'hint: use --no-mmap' "$work/err"
ok 'a model file that shrinks during a run is named, and nothing is left'
fresh
shrinks --no-mmap -o "$out/x.y4m"
[ $status = 0 ] && run generate $TINY $SMALL --steps 60 -o "$work/whole.y4m" -q && cmp -s "$out/x.y4m" "$work/whole.y4m"
ok 'with --no-mmap it does not matter'
fresh
GIMBAL_RESUME_SECONDS=0 shrinks --resume -o "$out/x.y4m"
[ $status = 1 ] && grep -q 'changed while in use' "$work/err" && [ ! -e "$out/x.y4m" ] &&
    cp tests/golden/models/animatediff-tiny/unet/diffusion_pytorch_model.safetensors "$work/m/unet" &&
    run generate --model "$work/m" $SMALL --steps 60 --resume -o "$out/x.y4m" && grep -q 'going on in pass 1 of 1' "$work/err" &&
    cmp -s "$out/x.y4m" "$work/whole.y4m"
ok 'what a broken file led to is not in the state that --resume goes on from'
run generate $TINY $SMALL --no-mmap --dry-run -o "$out/d.mp4" --json && grep -q '"mapped_bytes":0' "$work/std" &&
    run generate $TINY $SMALL --no-mmap --save-latents "$out/l.safetensors" -o "$out/e.y4m" -q &&
    run decode $TINY --no-mmap "$out/l.safetensors" -o "$out/f.y4m" -q && cmp -s "$out/e.y4m" "$out/f.y4m"
ok '--no-mmap maps nothing, and decode knows it too'

# ---- full disks and folders that cannot be written ------------------------------------------------------------------

BIG="--frames 8 --width 160 --height 120 --steps 1 --prompt cat"
run generate $TINY $BIG --save-latents "$work/l.safetensors" -o "$work/l.y4m" -q
limit=unlimited # of a file's size, KiB

# fails WHAT NAME FILE ARGS: fails with the reason WHAT behind FILE's name, and leaves nothing on the disk.
fails() {
    local what=$1 name=$2 file=$3 status
    shift 3
    (ulimit -f $limit && exec "$G" "$@") > "$work/std" 2> "$work/err"
    status=$?
    [ $status = 1 ] && [ "$(grep -c '^gimbal: error: ' "$work/err")" = 1 ] && grep -q "^gimbal: error: $disk/$file.*$what" "$work/err" &&
        [ ! -s "$work/std" ] && [ -z "$(find "$disk" -type f)" ]
    ok "$name: $file"
    find "$disk" -mindepth 1 -delete 2> /dev/null
}

every_writer() { # WHAT NAME
    local ending name
    for ending in $("$G" --version | sed -n 's/^writes: //p'); do
        name=x$ending
        case $ending in .png | .jpg) name=x%02d$ending ;; esac
        fails "$1" "$2" "x.*${ending#.}" decode $TINY "$work/l.safetensors" -o "$disk/$name" -q
    done
    [ $limit = 4 ] || fails "$1" "$2" l.safetensors generate $TINY $BIG -o "$out/o.gif" --save-latents "$disk/l.safetensors" -q
    [ $limit = 4 ] || fails "$1" "$2" p generate $TINY $BIG -o "$out/p.gif" --save-passes "$disk/p" -q
    fails "$1" "$2" n.npy noise -o "$disk/n.npy"
    fails "$1" "$2" n.safetensors noise -o "$disk/n.safetensors"
    fails "$1" "$2" m.npy noise --reinit freeinit --mask "$disk/m.npy"
    fails "$1" "$2" s.png sheet "$work/l.y4m" -o "$disk/s.png"
    fails "$1" "$2" c.safetensors encode-text $TINY --prompt cat --save "$disk/c.safetensors"
}

fresh
if mount -t tmpfs -o size=4k,mode=755 tmpfs "$disk" 2> /dev/null; then
    every_writer 'No space left on device' 'a full disk is an error that names the file'
    run generate $TINY $SMALL --preview "$disk/p.png" -o "$out/x.gif" && grep -q "warning: no more previews: $disk/p.png" "$work/err" &&
        [ -s "$out/x.gif" ] && [ -z "$(ls -A "$disk")" ]
    ok 'a preview on a full disk is a warning'
    mount -o remount,ro "$disk"
    every_writer 'Read-only file system' 'a folder that cannot be written is an error that names the file'
    umount "$disk"
else
    limit=4
    every_writer 'File too large' 'a full disk is an error that names the file'
    limit=unlimited
    chmod 555 "$disk"
    every_writer 'Permission denied' 'a folder that cannot be written is an error that names the file'
    chmod 755 "$disk"
fi
limit=4
fails 'File too large' 'a limit on the size of files is an error, not a signal' x.mp4 decode $TINY "$work/l.safetensors" -o "$disk/x.mp4" -q
fails 'File too large' 'a limit on the size of files is an error, not a signal' n.npy noise -o "$disk/n.npy"

# ---- printed pages --------------------------------------------------------------------------------------------------

for page in man bash zsh; do "$G" help --$page > "$work/$page" 2> "$work/err" || break; done
[ -s "$work/man" ] && [ -s "$work/bash" ] && [ -s "$work/zsh" ] && [ ! -s "$work/err" ]
ok 'help prints the man page and the completions'
commands=$("$G" help | sed -n 's/^subcommands: //p')
missing=
for command in $commands; do
    bash_flags=$(sed -n "s/^    $command) flags='\\(.*\\)' ;;/ \\1 /p" "$work/bash")
    zsh_flags=$(sed -n "/^        $command)\$/,/;;\$/p" "$work/zsh")
    man_flags=$(sed -n "/^\.SS gimbal ${command//-/\\\\-} /,/^\.SS /p" "$work/man")
    flags=$("$G" help "$command" | grep -oP '^  --\K[a-z0-9-]+')
    [ "$(echo "$flags" | wc -w)" -ge 1 ] || missing="$missing $command"
    for flag in $flags; do
        [[ $bash_flags == *" --$flag "* ]] || missing="$missing bash:$command:$flag"
        [[ $zsh_flags == *"'--$flag["* ]] || missing="$missing zsh:$command:$flag"
        [[ $man_flags == *$'\n.B '"\\-\\-${flag//-/\\-}"[$' \n']* ]] || missing="$missing man:$command:$flag"
    done
done
echo "missing:$missing" > "$work/err"
[ -z "$missing" ] && [ "$(echo "$commands" | wc -w)" -ge 7 ]
ok 'every flag of every subcommand is in all three'
bash -n "$work/bash" 2> "$work/err"
ok 'the completion for bash is bash'
# complete WORDS: what bash would offer for the last of them
complete_words() {
    bash -c '. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gimbal 2> /dev/null; echo "${COMPREPLY[*]}"' "$work/bash" "$@"
}
[ "$(complete_words gimbal gen)" = generate ] && [ "$(complete_words gimbal generate --rng '')" = 'philox torch' ] &&
    [ "$(complete_words gimbal generate --rng = to)" = torch ] && complete_words gimbal generate --reinit '' | grep -qw freeinit &&
    [ "$(complete_words gimbal generate --preview-e)" = --preview-every ] && [ -z "$(complete_words gimbal generate --steps 1)" ] &&
    [ "$(complete_words gimbal generate --model models/toyw)" = models/toyworld ] && complete_words gimbal help '' | grep -qw sampler
ok 'and offers commands, flags, choices, methods and files'
if command -v zsh > /dev/null; then
    zsh -n "$work/zsh" 2> "$work/err"
    ok 'the completion for zsh is zsh'
else
    skip 'the completion for zsh is zsh' 'no zsh here'
fi
if command -v groff > /dev/null; then
    groff -man -ww -z -Tutf8 "$work/man" > "$work/err" 2>&1
    [ ! -s "$work/err" ]
    ok 'the man page has no faults that groff knows'
else
    skip 'the man page has no faults that groff knows' 'no groff here'
fi
"$G" help --nothing > "$work/std" 2> "$work/err"
[ $? = 2 ] && [ ! -s "$work/std" ]
ok 'help on what is not there is an error'

# ---- version, colours, quiet ----------------------------------------------------------------------------------------

run --version && head -n 1 "$work/std" | grep -qE '^gimbal [0-9]+\.[0-9]+\.[0-9]+$' && missing= &&
    for fact in commit compiler 'compiled for' 'this machine' oneDNN jansson utf8proc OpenSSL FFmpeg writes reinit; do
        grep -q "^$fact: ." "$work/std" || missing="$missing $fact"
    done && [ -z "$missing" ] && ! grep -q / "$work/std" && grep '^writes:' "$work/std" | grep -q '\.mp4.*\.safetensors'
ok '--version tells what the build is made of, and no path of the machine'
run --version --json && [ "$(wc -l < "$work/std")" = 1 ] && grep -q '^{"schema":1,"version":"[0-9.]*",.*"writes":\["\.mp4",.*}$' "$work/std" &&
    ! grep -q / "$work/std"
ok '--version --json is one object on one line'
fresh
colours=0
for environment in NO_COLOR=1 FORCE_COLOR=1; do
    env "$environment" TERM=xterm-256color "$G" generate $TINY $SMALL -o "$out/x.mp4" > "$work/std" 2> "$work/err" &&
        env "$environment" "$G" help generate >> "$work/std" && env "$environment" "$G" info "$out/x.mp4" >> "$work/std"
    env "$environment" "$G" generate --model none $SMALL -o "$out/y.mp4" >> "$work/std" 2>> "$work/err"
    ! grep -q $'\033' "$work/std" "$work/err" && [ -s "$work/err" ] && colours=$((colours + 1))
done
[ $colours = 2 ] && run --help && grep -q 'No colours are printed' "$work/std"
ok 'no colours, whatever NO_COLOR and FORCE_COLOR say, and --help says so'
if script -qec true /dev/null > /dev/null 2>&1 < /dev/null; then
    script -qec "$G generate $TINY $SMALL -o $out/t.mp4" "$work/typescript" > /dev/null < /dev/null
    grep -q 'step 2/2' "$work/typescript" && ! grep -q $'\033' "$work/typescript"
    ok 'nor on a terminal'
else
    skip 'nor on a terminal' 'no terminal can be made here'
fi
run generate $TINY $SMALL -o "$out/q.mp4" -q && [ ! -s "$work/err" ] && run decode $TINY "$work/l.safetensors" -q -o "$out/r.mp4" &&
    [ ! -s "$work/err" ]
ok '-q is --quiet'
run info README.md -q
[ $? = 2 ] && grep -q 'has no --quiet: -q has no meaning here' "$work/err"
ok 'where there is no --quiet, -q is refused'

[ $failed = 0 ]
