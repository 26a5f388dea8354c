#!/usr/bin/env bash
# The library as others get it: installed into a folder of its own, found with pkg-config, compiled against with plain cc and g++,
# shared and static. Also: the header by itself in every language it promises, the exported names, docs/API.md.
# Usage: tests/install.sh build/release   (from the top of the checkout, after a whole build)
set -u
build=${1:?usage: tests/install.sh BUILD_FOLDER}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
number=0 bad=0
strict='-Wall -Wextra -Werror -pedantic'
export GOMP_SPINCOUNT=1000

check() { # check SENTENCE COMMAND...
    local sentence=$1
    shift
    number=$((number + 1))
    if "$@" > "$work/log" 2>&1; then
        echo "ok $number - $sentence"
    else
        echo "not ok $number - $sentence"
        sed 's/^/# /' "$work/log"
        bad=1
    fi
}
check_cxx() { # the same for what needs g++
    if command -v g++ > /dev/null; then
        check "$@"
    else
        number=$((number + 1))
        echo "ok $number - $1 # SKIP no g++"
    fi
}

# ---- installing ------------------------------------------------------------------------------
# Staged: everything under DESTDIR/prefix, and no file that names DESTDIR. Then in earnest, into a prefix that CMake was not
# configured with.
staged() {
    DESTDIR="$work/stage" cmake --install "$build" --prefix /opt/gimbal || return 1
    local top="$work/stage/opt/gimbal" file
    for file in bin/gimbal include/gimbal.h share/gimbal/models/toyworld/model_index.json share/doc/gimbal/API.md; do
        [ -s "$top/$file" ] || { echo "not installed: $file"; return 1; }
    done
    [ "$(ls -A "$work/stage")" = opt ] && [ "$(ls -A "$work/stage/opt")" = gimbal ] &&
        grep -q '^prefix=/opt/gimbal$' "$top"/lib*/pkgconfig/gimbal.pc "$top"/lib/*/pkgconfig/gimbal.pc 2> /dev/null
}
check 'cmake --install stages program, library, header, example model and documents in DESTDIR' staged
top="$work/gimbal"
unset DESTDIR
check 'it installs into a prefix of the moment' cmake --install "$build" --prefix "$top"
pc=$(find "$top" -name gimbal.pc | head -n 1)
export PKG_CONFIG_PATH=${pc%/*}
lib=$(pkg-config --variable=libdir gimbal)
version=$(pkg-config --modversion gimbal)
export LD_LIBRARY_PATH=$lib

# Private requirements may not reach programs that link the shared library, except as include folders.
pc_file() {
    [ "$(pkg-config --variable=prefix gimbal)" = "$top" ] && [ "$lib" ] && [ "$version" ] || return 1
    [ "$(pkg-config --libs gimbal | xargs)" = "-L$lib -lgimbal" ] || { pkg-config --libs gimbal; return 1; }
    local need
    for need in dnnl kissfft-float jansson utf8proc crypto gomp m; do
        pkg-config --static --libs gimbal | grep -qw -e "-l$need" || { echo "not for static linking: $need"; return 1; }
    done
    ! pkg-config --cflags gimbal | grep -q kiss
}
check 'gimbal.pc asks for libgimbal alone, and for all the rest when linking statically' pc_file

links() { # libgimbal.so -> .so.0 -> .so.0.x.y, which calls itself libgimbal.so.0
    [ -L "$lib/libgimbal.so" ] && [ -L "$lib/libgimbal.so.0" ] && [ -f "$lib/libgimbal.so.$version" ] &&
        readelf -d "$lib/libgimbal.so" | grep -q 'soname: \[libgimbal.so.0\]'
}
check 'libgimbal.so leads to libgimbal.so.0' links

printed() { # man page and completions, as far as the program prints them
    local flag file
    while read -r flag file; do
        if "$build/gimbal" help "$flag" > "$work/printed" 2> /dev/null && [ -s "$work/printed" ]; then
            cmp "$work/printed" "$top/share/$file" || return 1
        else
            [ ! -e "$top/share/$file" ] || return 1
        fi
    done << 'EOF'
--man man/man1/gimbal.1
--bash bash-completion/completions/gimbal
--zsh zsh/site-functions/_gimbal
EOF
}
check 'man page and completions are those that the program prints' printed
for model in toyworld toyfusion; do
    check "the installed program describes the installed $model" "$top/bin/gimbal" info "$top/share/gimbal/models/$model"
done

# ---- what the shared library shows and needs -------------------------------------------------
exports() {
    nm -D --defined-only "$lib/libgimbal.so" | awk '{ print $NF }' | sort > "$work/exported"
    sed -n 's/^GIMBAL_API[^(]*\b\(gimbal_[a-z0-9_]*\)(.*/\1/p' include/gimbal.h | sort > "$work/declared"
    [ -s "$work/declared" ] && diff "$work/declared" "$work/exported"
}
check 'libgimbal.so exports what gimbal.h declares and nothing else' exports

needs() {
    readelf -d "$lib/libgimbal.so" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' > "$work/needs"
    [ -s "$work/needs" ] && ! grep -vE '^lib(dnnl|kissfft-float|jansson|utf8proc|crypto|gomp|m|c|asan|ubsan|tsan)\.so' "$work/needs" &&
        ! ldd "$lib/libgimbal.so" | grep -E 'libav|libsw|libopencv|not found'
}
check 'libgimbal.so needs no FFmpeg, no OpenCV, nothing beyond its five libraries, libgomp and libc' needs

# ---- the header by itself --------------------------------------------------------------------
header() { # header COMPILER LANGUAGE STANDARD
    echo '#include <gimbal.h>' | "$1" -x "$2" -std="$3" $strict -Wundef -I"$top/include" -fsyntax-only -
}
for standard in c99 c11; do
    check "gimbal.h compiles alone as $standard" header cc c $standard
done
check 'gimbal.h keeps to what C and C++ share' \
    cc -x c -std=c99 $strict -Wc++-compat -Wstrict-prototypes -fsyntax-only include/gimbal.h
for standard in c++98 c++17; do
    check_cxx "gimbal.h compiles alone as $standard" header g++ c++ $standard
done

# ---- programs --------------------------------------------------------------------------------
# A sanitised library wants a sanitised program; else this is plain cc.
plain=''
grep -q asan "$work/needs" && plain='-fsanitize=address,undefined'
grep -q tsan "$work/needs" && plain='-fsanitize=thread'
shared="$(pkg-config --cflags --libs gimbal) -lm"
static="$(pkg-config --cflags gimbal) $(pkg-config --static --libs gimbal | sed 's/-lgimbal/-l:libgimbal.a/')"

user() { # user PROGRAM LIBRARIES COMPILER FLAG... : compile tests/install/user.c, run it
    local program="$work/$1" libraries=$2
    shift 2
    "$@" $strict $plain tests/install/user.c -o "$program" -x none $libraries &&
        "$program" "$top/share/gimbal/models/toyworld" "$version" | grep -qx fine
}
linked() { # linked PROGRAM: does it need the shared library?
    readelf -d "$work/$1" | grep -q 'NEEDED.*libgimbal.so.0'
}
check 'a C99 program compiles, links the shared library and runs' user c_shared "$shared" cc -std=c99
check 'a C99 program compiles, links the static library and runs' user c_static "$static" cc -std=c99
check_cxx 'a C++17 program compiles, links the shared library and runs' user cxx_shared "$shared" g++ -x c++ -std=c++17
check_cxx 'a C++17 program compiles, links the static library and runs' user cxx_static "$static" g++ -x c++ -std=c++17
check 'the first needs libgimbal.so.0' linked c_shared
statically() { [ -x "$work/c_static" ] && ! linked c_static; }
check 'the second does not' statically

examples() {
    local file
    for file in examples/*.c; do
        cc -std=c99 $strict $plain "$file" $shared -o "$work/$(basename "$file" .c)" || return 1
    done
    "$work/reinit_only" | grep -q '^start'
}
check 'the examples compile as their heads say' examples

# ---- documents -------------------------------------------------------------------------------
check 'docs/API.md is what gimbal.h says' tools/api-docs.sh --check
families() {
    local family count=0
    for family in $(sed -n 's/^#define FAMILIES(X) *//p' src/model/model.h | grep -oP 'X\(\K[a-z0-9_]+'); do
        count=$((count + 1))
        grep -qix "## $family" docs/MODELS.md || { echo "no section: $family"; return 1; }
    done
    [ "$count" -gt 0 ]
}
check 'docs/MODELS.md has a section for every model family' families
[ "$bad" = 0 ]
