#!/usr/bin/env bash
# Prints docs/API.md, made from the comments of include/gimbal.h (from the top of the checkout):
#
#   tools/api-docs.sh > docs/API.md      make it anew
#   tools/api-docs.sh --check            is the committed one true? (make check and tests/install.sh ask)
#
# A section is "/* ---- title ---- */" alone in a line. Inside, what stands between two empty lines is one entry: a comment, then
# the declarations it is about. Lines of a comment that are indented by four are code.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1

head() {
    cat << 'EOF'
# The C interface

Made from the comments of [include/gimbal.h](../include/gimbal.h) by `tools/api-docs.sh`: change them there.
[examples/steady.c](../examples/steady.c) is a whole program, [examples/reinit_only.c](../examples/reinit_only.c) one without a
model. After `make install` (`PREFIX`, `DESTDIR`):

| link | command |
|---|---|
| the shared library | `cc prog.c $(pkg-config --cflags --libs gimbal)` |
| the static library | `cc prog.c $(pkg-config --cflags gimbal) $(pkg-config --static --libs gimbal \| sed s/-lgimbal/-l:libgimbal.a/)` |

The header is valid C99, C11, C++98 and later. The shared library exports the functions below and nothing else; its soname is
`libgimbal.so.0`. An example model is installed in `PREFIX/share/gimbal/models/toyworld`.
EOF
}

# A table of sections with links to what they declare; anchors as GitHub and most others make them.
index_of() {
    awk '
    /^```/ { inside = !inside }
    inside { next }
    /^## / { row[++n] = "| " substr($0, 4) " |" }
    /^### / {
        anchor = tolower(substr($0, 5)); gsub(/,/, "", anchor); gsub(/ /, "-", anchor)
        row[n] = row[n] " [" substr($0, 5) "](#" anchor ")"
    }
    END { print "\n| section | declares |\n|---|---|"; for (i = 1; i <= n; i++) print row[i] " |" }'
}

document() {
    local text
    text=$(body) || return 1
    head
    awk '/^## / { exit } { print }' <<< "$text" | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}'
    index_of <<< "$text"
    echo
    awk '/^## / { on = 1 } on' <<< "$text"
}

body() {
    awk '
    # Prose may hold what Markdown reads as emphasis or a tag; between backticks it is left alone.
    function escaped(line,   part, n, i, out) {
        n = split(line, part, "`")
        for (i = 1; i <= n; i++) {
            if (i % 2) gsub(/[*<]/, "\\\\&", part[i])
            out = out (i > 1 ? "`" : "") part[i]
        }
        return out
    }

    # Names of the functions and types that a declaration declares, in order, once each.
    function names(text,   list, rest, name) {
        rest = text
        gsub(/\/\*[^*]*\*\//, "", rest)
        while (match(rest, /gimbal_[a-z0-9_]+\(|[}] gimbal_[a-z0-9_]+;|typedef struct gimbal_[a-z0-9_]+/)) {
            name = substr(rest, RSTART, RLENGTH)
            gsub(/typedef struct |[}] |[(;]/, "", name)
            list = list (list == "" ? "" : ", ") name
            rest = substr(rest, RSTART + RLENGTH)
        }
        return list
    }

    function code_table(text,   line, n, i, part) {
        print "\n| code | value | text |\n|---|---|---|"
        n = split(text, line, "\n")
        for (i = 1; i <= n; i++)
            if (line[i] ~ /^ *X\(/) {
                gsub(/^ *X\(|\) *\\? *$|"/, "", line[i])
                split(line[i], part, /, /)
                print "| `GIMBAL_" part[1] "` | " part[2] " | " part[3] " |"
            }
    }

    # One comment as Markdown; a blank line ends a paragraph, indented lines are code.
    function prose(text,   line, n, i, inside) {
        n = split(text, line, "\n")
        for (i = 1; i <= n; i++) {
            if (!inside && line[i] ~ /^    /) { print "```c"; inside = 1 }
            if (inside && line[i] !~ /^    /) { print "```"; inside = 0 }
            print inside ? substr(line[i], 5) : escaped(line[i])
        }
        if (inside) print "```"
    }

    function entry(   title) {
        if (code ~ /#define GIMBAL_CODES/) {
            print ""; prose(comment); code_table(code)
        } else if (code != "") {
            title = names(code)
            if (title != "") print "\n### " title
            if (comment != "") { print ""; prose(comment) }
            print "\n```c\n" code "\n```"
        } else if (comment != "") {
            print ""; prose(comment)
        }
        comment = code = ""
    }

    # Section rules, and lines that are for the compiler alone.
    /^\/\* ---- .* -+ \*\/$/ {
        entry(); title = $0
        sub(/^\/\* ---- /, "", title); sub(/ -+ \*\/$/, "", title)
        print "\n## " title
        next
    }
    /^#(if|ifndef|ifdef|else|endif|include)/ || /^#define GIMBAL_(H|API|CODE_ENUM)/ || /^extern "C"/ || /^}$/ { next }
    /^$/ && !talking {
        if (depth) code = code "\n"
        else entry()
        next
    }

    # A comment at the left margin in front of declarations; " * " is its margin.
    !talking && code == "" && /^\/\* / { talking = 1; text = $0; sub(/^\/\* /, "", text) }
    talking {
        line = $0
        if (text != "") { line = text; text = "" } else sub(/^ \*( |$)/, "", line)
        if ($0 ~ /\*\/$/) { talking = 0; sub(/ *\*\/$/, "", line) }
        if (line != "" || talking) comment = comment (comment == "" ? "" : "\n") line
        next
    }
    {
        sub(/^GIMBAL_API /, "")
        code = code (code == "" ? "" : "\n") $0
        line = $0
        depth += gsub(/{/, "", line) - gsub(/}/, "", line)
    }
    END { entry() }
    ' include/gimbal.h
}

if [ "${1:-}" = --check ]; then
    if document | cmp -s - docs/API.md; then
        echo 'api: ok'
    else
        echo 'api: docs/API.md is not what include/gimbal.h says (tools/api-docs.sh > docs/API.md)'
        exit 1
    fi
else
    document
fi
