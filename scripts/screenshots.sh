#!/usr/bin/env bash
# Makes the pictures of the dashboard in docs/images: a real cluster under load, healthy and with two nodes
# down, in headless Chromium.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh

have() { command -v "$1" >/dev/null 2>&1; }
have chromium || have chromium-browser || have google-chrome ||
    { echo "screenshots: no chromium on this machine" >&2; exit 1; }

cargo test --locked --test dashboard -- --ignored --exact screenshots
ls -l docs/images
