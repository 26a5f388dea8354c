#!/usr/bin/env bash
# CONTRIBUTING.md, "To add a noise prior", done as it says: the file and the line of the page go into a copy of the sources,
# what they concern is compiled and linked with the rest of a finished build, and the page's commands are run.
# Usage: tests/contributing.sh build/release   (from the top of the checkout). Prints "ok N - name" lines.
set -u
build=$(realpath "${1:?usage: tests/contributing.sh BUILD_FOLDER}")
top=$PWD
page=CONTRIBUTING.md
source tests/kit/cases.sh
mkdir -p "$work/out/tests"

# block LANGUAGE: the code block of that language in the page's section.
block() { sed -n '/^## To add a noise prior/,/^## /p' "$page" | sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" | sed '1d;$d'; }

# What the page says: a file's name, its text, a line to append, commands.
file=$(grep -o '`src/diffusion/noise_[a-z]*\.c`' "$page" | head -n 1 | tr -d '`')
line=$(grep -o 'Append `X([a-z]*)` to the line' "$page" | grep -o 'X([a-z]*)')
name=${file##*noise_} name=${name%.c}
cp -r src "$work/src"
block c > "$work/$file" && [ -n "$name" ] && [ "$line" = "X($name)" ] && [ ! -e "$file" ] && [ "$(wc -l < "$work/$file")" -gt 30 ]
ok 'the page names a new file, gives its text, and a line for the list'
sed -i "s/^#define NOISES(X) .*[^\\]\$/& $line/; /^#define NOISES(X).*\\\\\$/s/\\\\\$/$line \\\\/" "$work/src/diffusion/diffusion.h"
[ "$(diff "$top/src/diffusion/diffusion.h" "$work/src/diffusion/diffusion.h" | grep -c '^>')" = 1 ] &&
    grep -q "^#define NOISES(X).*$line" "$work/src/diffusion/diffusion.h"
ok 'one line of the header changes'

# compile FILE: with the flags of the build for its neighbour, in the copy; no warnings.
flags=$(ninja -C "$build" -t commands libgimbal.a | grep -- '-c .*/src/diffusion/noise_white\.c$' | head -n 1 |
    sed "s/ -MD .*//; s#-I$top/src#-I$work/src#; s#-I$top #-I$work #")
compile() { (cd "$work" && eval "$flags -Werror -c $1 -o $work/out/$(basename "$1" .c).o") > "$work/log" 2>&1; }
compile "$file"
ok 'the file compiles without a warning'
status=0
for source in $(cd "$work" && grep -lw NOISES src/*/*.c); do compile "$source" || status=1; done
[ $status = 0 ]
ok 'so does what reads the list'

# relink TARGET: the build's own link command, with the new objects before the library.
relink() {
    local command
    command=$(ninja -C "$build" -t commands "$1" | tail -n 1)
    (cd "$build" && bash -c "${command/ -o $1 / $(echo "$work"/out/*.o) -o $work/out/$1 }") > "$work/log" 2>&1
}
relink tests/t_noise && relink gimbal
ok 'tests and program link'

# The page's commands, on what was built here.
block sh > "$work/commands"
[ "$(head -n 1 "$work/commands")" = 'make build' ] && sed -i "1d; s#build/release#$work/out#" "$work/commands" &&
    grep -q t_noise "$work/commands" && grep -q 'gimbal help noise' "$work/commands"
ok 'the page says how to build and test'
bash -e "$work/commands" > "$work/log" 2>&1
ok 'its commands succeed'
grep -q -- "--noise $name" "$work/log" && grep -q 'every_prior_correlates_frames_as_it_says' "$work/log"
ok 'gimbal help noise shows the prior, and the registry tests have met it'
(clang-format --dry-run -Werror --style=file:"$top/.clang-format" "$work/$file") > "$work/log" 2>&1 ||
    ! command -v clang-format > "$work/log" 2>&1
ok 'the file is formatted as the house formats'

[ $failed = 0 ]
