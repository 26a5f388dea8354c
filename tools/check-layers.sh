#!/usr/bin/env bash
# The include order between folders: base <- tensor <- {signal, io} <- model <- diffusion <- train; media, flow, stats and ranks on base alone; app sees
# gimbal.h, media.h, flow.h, stats.h and ranks.h only; the public header and what strangers compile (examples/, tests/install/) see nothing of src/.
# Also: no file above 800 lines, and nothing below app/ prints or exits.
set -u
bad=0
say() { echo "layers: $*"; bad=1; }

allowed() { # folder -> the folders whose headers it may include
    case $1 in
    base) echo "base" ;;
    tensor) echo "base tensor" ;;
    signal) echo "base signal" ;;
    io) echo "base tensor io" ;;
    model) echo "base tensor io model" ;;
    diffusion) echo "base tensor signal io model diffusion" ;;
    metric) echo "base tensor signal io model metric" ;;
    train) echo "base tensor signal io model metric diffusion train" ;; # metric: for the public list of plug-ins
    media) echo "base media" ;;
    flow) echo "base flow" ;;
    stats) echo "base stats" ;;
    ranks) echo "base ranks" ;;
    *) echo "" ;;
    esac
}

for file in $(git ls-files 'src/*.c' 'src/*.h'); do
    folder=$(echo "$file" | cut -d/ -f2)
    for include in $(grep -oP '^\s*#\s*include\s*"\K[^"]+' "$file"); do
        case $include in
        gimbal.h) continue ;;
        */*) into=${include%%/*} ;;
        *) say "$file includes \"$include\": write folder/header.h"; continue ;;
        esac
        case " $(allowed "$folder") " in
        *" $into "*) ;;
        *) say "$file (folder $folder) includes $include" ;;
        esac
    done
    grep -nE '\b(printf|puts|putchar|perror|exit|abort|_exit)\s*\(' "$file" | grep -vE '(//|/?\*)' | sed "s|^|layers: prints or exits: $file:|" | grep . && bad=1
    grep -nE '\bfprintf\s*\(\s*(stdout|stderr)' "$file" | sed "s|^|layers: prints: $file:|" | grep . && bad=1
done
for file in $(git ls-files 'include/*' 'examples/*' 'tests/install/*'); do
    for include in $(grep -oP '^\s*#\s*include\s*\K["<][^">]+' "$file"); do
        case $include in
        ?gimbal.h) continue ;;
        '"'*) say "$file includes $include\": strangers have gimbal.h and the system's headers" ;;
        *) [ ! -e "src/${include#<}" ] || say "$file includes $include>, which is not installed" ;;
        esac
    done
done
for file in $(git ls-files 'app/*.c' 'app/*.h'); do
    for include in $(grep -oP '^\s*#\s*include\s*"\K[^"]+' "$file"); do
        case $include in
        gimbal.h | media/media.h | flow/flow.h | stats/stats.h | ranks/ranks.h | app/*) ;;
        *) say "$file includes \"$include\": app sees gimbal.h, media.h, flow.h, stats.h and ranks.h only" ;;
        esac
    done
done
for file in $(git ls-files '*.c' '*.h'); do
    lines=$(wc -l < "$file")
    [ "$lines" -le 800 ] || say "$file has $lines lines, at most 800"
done
[ "$bad" = 0 ] && echo 'layers: ok'
exit $bad
