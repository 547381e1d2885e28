#!/usr/bin/env bash
# etcd 3.4.23 (Debian's etcd-server and etcd-client 3.4.23-4), three members with --quota-backend-bytes of 8 MiB.
#
# The quota is each member's own and looks at the size of its file, free pages included. Seen: filled with 100 kB values
# under one key until NOSPACE ("etcdserver: mvcc: database space exceeded"), one member stopped, the other two
# compacted, defragmented and disarmed: no alarm, writes are taken. When the third comes back it catches up, with the
# compaction and the disarming, but its file stays as large as it was, and at the write that was made without it
# ("applying raft message exceeded backend quota" in its log) it raises NOSPACE once more, for the *whole* cluster:
# before any client writes again, and every write through any member is refused, though the files of the other two are
# nearly empty (0.2 of 8.4 MB). `alarm disarm` alone lets one single write through; then all are refused again.
# Defragmenting the third and disarming ends it.
#
# What follows: after NOSPACE, *every* member has to be defragmented, also the one that was away, before the alarm is
# lifted for good; a repair that skips an unreachable member is undone by that member's return. `etcdctl alarm list`
# names it, in decimal (`member_id` of `endpoint status -w json`). Who watches sizes watches each member's dbSize, not
# the leader's. One write after `alarm disarm` proves nothing, as the first succeeds in either case: a second one, a
# moment later, is the test.
set -euo pipefail
quota=$((8 << 20))
for package in etcd-server etcd-client; do
    dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed && continue
    # Installed without starting the package's own service.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$package" >/dev/null
    rm -f "$policy"
    trap - EXIT
done

dir=$(mktemp -d)
declare -A pids=()
stop() {
    local i
    for i in "$@"; do
        [[ -n ${pids[$i]:-} ]] || continue
        kill "${pids[$i]}" 2>/dev/null || true
        wait "${pids[$i]}" 2>/dev/null || true
        unset "pids[$i]"
    done
}
trap 'stop 1 2 3; rm -rf "$dir"' EXIT
failed=0
export ETCDCTL_API=3

# Ports that nobody has now: a client's and a peer's for each member.
read -r -a ports < <(python3 -c '
import socket
held = [socket.socket() for _ in range(6)]
for s in held:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))')
client() { echo "http://127.0.0.1:${ports[$1 - 1]}"; }
peer() { echo "http://127.0.0.1:${ports[$1 + 2]}"; }

# start MEMBER
start() {
    etcd --name "m$1" --data-dir "$dir/m$1" --listen-client-urls "$(client "$1")" \
        --advertise-client-urls "$(client "$1")" --listen-peer-urls "$(peer "$1")" \
        --initial-advertise-peer-urls "$(peer "$1")" --quota-backend-bytes "$quota" \
        --initial-cluster "m1=$(peer 1),m2=$(peer 2),m3=$(peer 3)" >>"$dir/log$1" 2>&1 &
    pids[$1]=$!
}

# ctl "MEMBERS" ARGUMENTS...
ctl() {
    local endpoints='' i
    for i in $1; do endpoints+=,$(client "$i"); done
    etcdctl --endpoints "${endpoints#,}" "${@:2}" 2>&1
}

# A read that needs a quorum says that a member is up and there is a leader.
await() {
    local i
    for i in $1; do
        for _ in $(seq 150); do
            [[ $(ctl "$i" get nothing) == "" ]] && continue 2
            sleep 0.2
        done
        echo "member $i does not answer"; exit 1
    done
}
put() { ctl "$1" put key value | tail -n 1; }
alarms() { ctl "$1" alarm list | grep -c NOSPACE || true; }
field() { ctl "$1" endpoint status -w json | grep -oE "\"$2\":[0-9]+" | sed -n 's/[^0-9]*//;1p'; }

# expect WHAT SEEN WANTED
expect() {
    printf '%s: %s\n' "$1" "$2"
    if [[ $2 != "$3" ]]; then printf '  CHANGED, it was: %s\n' "$3"; failed=1; fi
}
full='Error: etcdserver: mvcc: database space exceeded'

etcd --version | sed -n 1p
for i in 1 2 3; do start "$i"; done
await '1 2 3'
head -c 100000 /dev/zero | tr '\0' x >"$dir/value"
# Until the largest of the files is above the quota: the others may be a little below it.
for _ in 1 2 3 4 5; do
    for n in $(seq 150); do ctl 1 put fill <"$dir/value" >/dev/null || break; done
    echo "refused: put $n of 100 kB"
    sleep 1
    read -r size away < <(for i in 1 2 3; do echo "$(field "$i" dbSize) $i"; done | sort -n | tail -n 1)
    if ((size > quota)); then break; fi
    ctl 1 alarm disarm >/dev/null
done
rest=$(echo 1 2 3 | tr -d "$away" | xargs)
one=${rest% *}
for i in 1 2 3; do echo "member $i: $(field "$i" dbSize) bytes of $quota"; done
expect 'a write when full' "$(put "$one")" "$full"

stop "$away"
echo "member $away is stopped"
await "$rest"
ctl "$one" compact "$(field "$one" revision)"
for i in $rest; do ctl "$i" defrag; done
ctl "$rest" alarm disarm
expect 'alarms of the two' "$(alarms "$one")" 0
expect 'a write with the two' "$(put "$one")" OK
start "$away"
echo "member $away is back"
await "$away"
sleep 2
for i in 1 2 3; do echo "member $i: $(field "$i" dbSize) bytes of $quota"; done
ctl "$one" alarm list
expect 'alarms with the third back, before any write' "$(alarms "$one")" 1
expect 'who raised it' "$(ctl "$one" alarm list | sed -E 's/memberID:([0-9]+) .*/\1/')" "$(field "$away" member_id)"
for i in 1 2 3; do expect "a write through member $i" "$(put "$i")" "$full"; done

ctl "$one" alarm disarm >/dev/null
expect 'disarmed only, a first write' "$(put "$one")" OK
sleep 2
expect 'disarmed only, a second write' "$(put "$one")" "$full"

ctl "$away" defrag
ctl "$one" alarm disarm >/dev/null
for _ in 1 2; do
    for i in 1 2 3; do expect "all defragmented and disarmed, a write through member $i" "$(put "$i")" OK; done
    sleep 1
done
expect 'alarms at the end' "$(alarms "$one")" 0
exit "$failed"
