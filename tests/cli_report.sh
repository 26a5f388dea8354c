#!/usr/bin/env bash
# gimbal measure --report and gimbal analyze -o plot.svg, from outside: pages that stand alone, and places that cannot be
# written. Usage: tests/cli_report.sh build/release/gimbal   (from the top of the checkout). Prints "ok N - name" lines.
set -u
G=$(realpath "${1:?usage: tests/cli_report.sh PROGRAM}")
source tests/kit/cases.sh

# run ARGS: stdout and stderr into files; the program's own status.
run() { timeout 120 "$G" "$@" > "$work/std" 2> "$work/err"; }

# y4m FILE FRAMES WIDTH HEIGHT FPS: a clip whose grey runs from frame to frame.
y4m() {
    local i
    printf 'YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C444\n' "$3" "$4" "$5" > "$1"
    for i in $(seq "$2"); do
        printf 'FRAME\n'
        head -c $(($3 * $4)) /dev/zero | tr '\0' "\\$(printf %o $((40 + 6 * (i % 30))))"
        head -c $((2 * $3 * $4)) /dev/zero | tr '\0' '\200'
    done >> "$1"
}

# alone FILE: a whole page without anything from elsewhere.
alone() {
    [ "$(head -c 15 "$1")" = '<!DOCTYPE html>' ] && [ "$(tail -n 1 "$1")" = '</html>' ] &&
        ! grep -qE '<script|<link|https?://|url\(|src="[^d]' "$1"
}

clip="$work/a <b> & c.y4m"
y4m "$clip" 12 72 40 12
y4m "$work/second.y4m" 20 31 29 25

fresh
run measure --quiet --report "$out/page.html" "$clip" "$work/second.y4m" && alone "$out/page.html"
ok "a report of two clips is one page that stands alone"

page=$out/page.html
grep -qF 'a &lt;b&gt; &amp; c.y4m</h2>' "$page" && ! grep -qF '<b>' "$page"
ok "names of files are escaped"

[ "$(grep -c '<h2>' "$page")" = 2 ] && grep -q '12 frames of 72' "$page" && grep -q '20 frames of 31' "$page"
ok "each clip has its part"

grep -q 'temporal_flickering' "$page" && [ "$(grep -c 'class="sheet"' "$page")" = 2 ] &&
    [ "$(grep -c 'Slices through time' "$page")" = 2 ] && [ "$(grep -c 'Flicker of the whole picture' "$page")" = 2 ]
ok "with scores, frames, slices and the spectrum"

[ "$(ls -A "$out")" = page.html ]
ok "nothing else is left beside it"

cp "$page" "$work/first.html"
run measure --quiet --report "$page" "$clip" "$work/second.y4m" && cmp -s "$page" "$work/first.html"
ok "the same clips give the same bytes"

run measure --quiet --report "$work/no/such/place.html" "$clip"
[ $? = 1 ] && [ "$(grep -c '^gimbal: error: ' "$work/err")" = 1 ] && grep -q 'place.html' "$work/err" && [ ! -s "$work/std" ]
ok "a place that cannot be written is found before any work"

fresh
echo old > "$out/page.html"
(
    trap '' XFSZ
    ulimit -f 1
    timeout 120 "$G" measure --quiet --report "$out/page.html" "$clip" > /dev/null 2> "$work/err"
)
[ $? = 1 ] && [ "$(cat "$out/page.html")" = old ] && [ "$(ls -A "$out")" = page.html ] &&
    grep -q '^gimbal: error: .*page.html' "$work/err"
ok "a full disk leaves what was there, and one error"

fresh
run analyze leak -o "$out/leak.svg" && head -c 40 "$out/leak.svg" | grep -qF '<svg xmlns="http://www.w3.org/2000/svg"' &&
    [ "$(tail -n 1 "$out/leak.svg")" = '</svg>' ]
ok "a plot of its own is a whole SVG file"

run analyze leak --report "$out/leak.html" && alone "$out/leak.html" && grep -q 'class="plot wide"' "$out/leak.html"
ok "a study's page stands alone"

echo "$((n - failed)) passed, $failed failed"
[ $failed = 0 ]
