# Sourced by the other scripts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STATIC_TARGET=x86_64-unknown-linux-gnu
PACKAGES=(gcc libc6-dev protobuf-compiler libprotobuf-dev etcd-server etcd-client docker.io
          nftables conntrack iproute2 busybox-static)

say() { printf '\033[1m== %s\033[0m\n' "$*"; }

# Installs the Debian packages that are missing, without letting their services start now or at boot:
# the cluster runs engines and etcd members of its own.
install_packages() {
    local missing=() package
    for package in "${PACKAGES[@]}"; do
        dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    say "installing ${missing[*]}"
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap "rm -f $policy" EXIT
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    if [[ -d /run/systemd/system ]]; then
        local unit
        for unit in docker.service docker.socket containerd.service etcd.service; do
            systemctl --quiet disable --now "$unit" 2>/dev/null || true
        done
    fi
}

# Builds all programs; those that go into images without any library beside them.
build() {
    say "building (release)"
    cargo build --release --workspace --bins --exclude pause --exclude guestbook
    RUSTFLAGS='-C target-feature=+crt-static' \
        cargo build --release --target "$STATIC_TARGET" -p pause -p guestbook
}

need_root() {
    [[ $EUID -eq 0 ]] || { echo "$0: must run as root" >&2; exit 1; }
}
