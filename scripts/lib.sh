# Sourced by the other scripts.
set -euo pipefail
# As it was meant where the script was called.
[[ -z ${FERROKUBE_DIR:-} ]] || export FERROKUBE_DIR=$(realpath -m "$FERROKUBE_DIR")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STATIC_TARGET=x86_64-unknown-linux-gnu
PACKAGES=(gcc libc6-dev protobuf-compiler libprotobuf-dev etcd-server etcd-client
          docker.io containerd nftables conntrack iproute2 busybox-static openssl debootstrap systemd-container
          python3-venv)

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
    # In a subshell, so that what keeps services from starting is gone with it, whatever happens.
    (
        policy=/usr/sbin/policy-rc.d
        if [[ ! -e $policy ]]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod +x "$policy"
        fi
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    )
    if [[ -d /run/systemd/system ]]; then
        # Only what came just now: a Docker Engine that was here before is somebody's.
        # A unit with an @ is a template, which cannot run.
        dpkg -L "${missing[@]}" | sed -n 's#.*/systemd/system/\([^/@]*\.\(service\|socket\)\)$#\1#p' |
            xargs -r systemctl --quiet disable --now
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
