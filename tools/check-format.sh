#!/usr/bin/env bash
# Every source file is as .clang-format (version 14) says.
set -u
if ! command -v clang-format > /dev/null; then
    echo 'format: clang-format is not installed (apt-get install clang-format)' >&2
    exit 1
fi
bad=0
for file in $(git ls-files '*.c' '*.h'); do
    clang-format --dry-run -Werror "$file" > /dev/null 2>&1 || { echo "format: $file (make format)"; bad=1; }
done
[ "$bad" = 0 ] && echo 'format: ok'
exit $bad
