# How the shell tests tell their cases; sourced by them from the top of the checkout.
#
#   work    a folder of the test's own, removed at its end     out   where the program's files go, after `fresh`
#   n, failed   cases so far, and those that failed
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
out=$work/out
n=0 failed=0

# ok NAME: the last command's status decides; what was written to $work/err, std and log is shown when it failed.
ok() {
    local status=$?
    n=$((n + 1))
    if [ $status = 0 ]; then
        echo "ok $n - $1"
    else
        failed=$((failed + 1))
        echo "not ok $n - $1"
        cat "$work/err" "$work/std" "$work/log" 2> /dev/null | head -c 4000 | sed 's/^/# /' | tail -n 20
    fi
}

skip() { n=$((n + 1)) && echo "ok $n - $1 # SKIP $2"; }

fresh() { rm -rf "$out" && mkdir "$out"; }
