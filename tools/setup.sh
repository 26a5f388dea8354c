#!/usr/bin/env bash
# Installs the Debian packages that building, testing and running need, and nothing when they are there already.
# Says what it does; uses sudo when not root.
set -euo pipefail

packages="gcc g++ libc6-dev cmake ninja-build pkg-config libdnnl-dev libkissfft-dev libjansson-dev libutf8proc-dev libssl-dev libcmocka-dev
    libavformat-dev libavcodec-dev libavfilter-dev libswscale-dev libavutil-dev liblapacke-dev
    libopencv-video-dev libopenmpi-dev openmpi-bin"

missing=""
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get > /dev/null; then
    echo "setup: this is not a Debian system; install the equivalents of:$missing" >&2
    exit 1
fi
run=""
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo > /dev/null; then
        echo "setup: needs root to install:$missing (run as root, or install sudo)" >&2
        exit 1
    fi
    run="sudo"
fi
echo "setup: installing Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
$run apt-get install -y --no-install-recommends $missing > /dev/null 2>&1 && exit 0
echo "setup: refreshing the package lists first"
$run apt-get update
$run apt-get install -y --no-install-recommends $missing
