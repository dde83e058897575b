#!/usr/bin/env bash
# The demo of the plugin for Kong: nginx with Lua in the role of Kong, with the shipped plugin and kong.yml; a broker, a development
# identity provider and a real MinIO, all on loopback. It shows each step and exits non-zero if one of them doesn't come out as it says.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
# shellcheck source=scripts/demo/lib.sh
. "$here/../lib.sh"

step "1. Programs"
minio=$(scripts/tool minio)
mc=$(scripts/tool mc)
scripts/tool nginx-lua >/dev/null
CGO_ENABLED=0 go build -trimpath -o "$work/broker" ./cmd/broker
go build -o "$work/standin" ./internal/kongtest/standin
ok "broker built; nginx with Lua, MinIO and mc are in this user's cache, pinned by scripts/tools.txt"

http=$(free_port) grpc=$(free_port) gateway=$(free_port) ops=$(free_port) idp=$(free_port) s3=$(free_port) kong=$(free_port)
broker_url=http://127.0.0.1:$http
minio_url=http://127.0.0.1:$s3
idp_url=http://127.0.0.1:$idp
socket=$work/admin.sock

step "2. The broker, and an identity provider that knows alice, bob, and Kong's own workload"
# Each process gets an environment of its own, so that the last step sees what it was given. In the background alone: it becomes the program.
clean() { exec env -i PATH="$PATH" HOME="$HOME" "$@"; }
clean CREDBROKER__ISSUER__URL="$broker_url" CREDBROKER__LISTENERS__HTTP__ADDRESS="127.0.0.1:$http" CREDBROKER__LISTENERS__GRPC__ADDRESS="127.0.0.1:$grpc" \
  CREDBROKER__LISTENERS__GATEWAY__ADDRESS="127.0.0.1:$gateway" CREDBROKER__LISTENERS__METRICS__ADDRESS="127.0.0.1:$ops" \
  CREDBROKER__LISTENERS__ADMIN__SOCKET="$socket" CREDBROKER__EXCHANGERS__MINIO__ENDPOINT="$minio_url" CREDBROKER__AUDIT__PATH="$work/audit.jsonl" \
  "$work/broker" dev --config "$here/broker.yaml" --idp-address "127.0.0.1:$idp" --user alice: --user bob: --user kong:gateways >"$work/broker.log" 2>&1 &
broker_pid=$!
pids+=("$broker_pid")
wait_for "broker at $broker_url, for gateways at 127.0.0.1:$gateway" "$work/broker" admin --socket "$socket" status
token() { "$work/broker" dev-token --idp "$idp_url" "$@"; }

step "3. A real MinIO that trusts the broker's tokens, and no one's key"
root_user=operator root_password=$(head -c 24 /dev/urandom | base64 | tr -d '/+=') client_secret=$(head -c 32 /dev/urandom | base64)
clean MINIO_ROOT_USER=$root_user MINIO_ROOT_PASSWORD="$root_password" MINIO_IDENTITY_OPENID_CONFIG_URL="$broker_url/.well-known/openid-configuration" \
  MINIO_IDENTITY_OPENID_CLIENT_ID=credbroker MINIO_IDENTITY_OPENID_CLIENT_SECRET="$client_secret" MINIO_IDENTITY_OPENID_CLAIM_NAME=policy \
  "$minio" server --quiet --address "127.0.0.1:$s3" "$work/data" >"$work/minio.log" 2>&1 &
pids+=($!)
export MC_CONFIG_DIR=$work/mc MC_NO_COLOR=1
export MC_HOST_root=http://$root_user:$root_password@127.0.0.1:$s3
wait_for "MinIO at $minio_url" "$mc" mb --ignore-existing root/files
"$mc" admin policy create root files-rw "$here/files-rw.json" >/dev/null
echo "umbrella's plans" >"$work/plans.txt"
"$mc" cp --quiet "$work/plans.txt" root/files/umbrella/plans.txt >/dev/null
unset MC_HOST_root
ok "bucket files, policy files-rw; a tenant umbrella has a file there"

step "4. Kong: deploy/kong/kong.yml, but for hosts, files and the provider's key"
mkdir "$work/kong"
token kong >"$work/kong-token" # what a platform writes and renews
curl -fsS "$idp_url/key.pem" >"$work/key.pem"
awk -v key="$work/key.pem" '
  /-----BEGIN PUBLIC KEY-----/ { while ((getline line < key) > 0) print "          " line; skip = 1 }
  !skip { print }
  /-----END PUBLIC KEY-----/ { skip = 0 }' deploy/kong/kong.yml |
  sed -e "s|https://minio.example:9000|$minio_url|; s|https://broker.example:8444|http://127.0.0.1:$gateway|; s|https://broker.example:8443|$broker_url|" \
    -e "s|/var/run/secrets/credbroker/token|$work/kong-token|; s|/dev/stdout|$work/kong.log|" >"$work/kong.yml"
clean "$work/standin" "$work/kong.yml" "$work/kong" "$kong" >"$work/kong/output.log" 2>&1 &
kong_pid=$!
pids+=("$kong_pid")
s3_call() { # TOKEN METHOD PATH [CURL'S ARGUMENTS...]: prints the status; the body is in $work/out
  local token=$1 method=$2 path=$3
  shift 3
  curl -sS -o "$work/out" -w '%{http_code}' -H "Authorization: Bearer $token" -H "Host: s3.example" -X "$method" "$@" "http://127.0.0.1:$kong$path"
}
alice=$(token alice) bob=$(token bob)
ready() { [ "$(s3_call "$alice" GET '/files?list-type=2&prefix=acme/')" = 200 ]; }
wait_for "gateway at http://127.0.0.1:$kong, with a gateway session of the broker's" ready

expect() { # WHAT STATUS TOKEN METHOD PATH [CURL'S ARGUMENTS...]
  local what=$1 want=$2 got
  shift 2
  got=$(s3_call "$@")
  [ "$got" = "$want" ] || fail "$what: $got, expected $want: $(head -c 300 "$work/out")"
  ok "$what: $want"
}

step "5. alice has her token of the identity provider, and nothing else"
head -c 3000000 /dev/urandom >"$work/figures.bin"
expect "she uploads files/acme/q3.bin" 200 "$alice" PUT /files/acme/q3.bin -T "$work/figures.bin"
expect "she lists files/acme/" 200 "$alice" GET '/files?list-type=2&prefix=acme/'
grep -q '<Key>acme/q3.bin</Key>' "$work/out" || fail "the list hasn't her file: $(cat "$work/out")"
expect "she reads it back" 200 "$alice" GET /files/acme/q3.bin
cmp -s "$work/out" "$work/figures.bin" || fail "what she reads is not what she wrote"
ok "byte for byte"
expect "she reads another tenant's file" 403 "$alice" GET /files/umbrella/plans.txt
expect "she lists another tenant's prefix" 403 "$alice" GET '/files?list-type=2&prefix=umbrella/'
expect "bob of umbrella reads it" 200 "$bob" GET /files/umbrella/plans.txt

step "6. What alice says of herself changes nothing"
spoof=(-H "X-Consumer-Id: 7c1a3f52-51f6-4a8e-9a3e-6a5f0a1d0002" -H "X-Consumer-Custom-Id: umbrella" -H "X-Consumer-Username: bob" -H "X_Consumer_Custom_Id: umbrella"
  -H "X-Credential-Identifier: bob" -H "X-Authenticated-Groups: admins" -H "X-Amz-Security-Token: mine" -H "X-Anonymous-Consumer: true")
expect "spoofed headers, another tenant's file" 403 "$alice" GET /files/umbrella/plans.txt "${spoof[@]}"
expect "spoofed headers, her own" 200 "$alice" GET /files/acme/q3.bin "${spoof[@]}"
expect "a path that leads out of her folder" 400 "$alice" GET /files/acme%2F..%2Fumbrella/plans.txt --path-as-is
expect "no token" 401 none GET /files/acme/q3.bin

step "7. After her token's end the next request fails"
short=$(token alice --life 4s)
expect "with a token for 4 s" 200 "$short" GET /files/acme/q3.bin
sleep 5
expect "5 s later" 401 "$short" GET /files/acme/q3.bin

step "8. One pipeline of IDs"
id=$(sed -n '$s/.*"id":"\([0-9a-f]*\)".*/\1/p' "$work/kong.log")
key=$(grep -o '"access_key_id":"[A-Z0-9]*"' "$work/kong.log" | head -n 1 | cut -d'"' -f4)
[ -n "$id" ] && [ -n "$key" ] && grep -q "$key" "$work/audit.jsonl" || fail "the broker's audit and Kong's log don't meet: $id $key"
ok "access key $key is in Kong's log, with MinIO's request IDs, and in the broker's audit, with Kong's"

step "9. No secret that lasts"
# The configuration and environment of each process, and the gateway's shared memory.
mkdir "$work/seen"
mapfile -t workers < <(pgrep -P "$kong_pid")
for pid in "$broker_pid" "$kong_pid" "${workers[@]}"; do
  tr '\0' '\n' <"/proc/$pid/environ" >"$work/seen/$pid.environment"
  tr '\0' '\n' <"/proc/$pid/cmdline" >"$work/seen/$pid.arguments"
done
cp "$here/broker.yaml" "$work/kong.yml" "$work/kong/kong.json" "$work/kong/nginx.conf" "$work/seen/"
cp "$work/kong.log" "$work/broker.log" "$work/audit.jsonl" "$work/kong/error.log" "$work/seen/"
zones=0
while read -r range mode _ _ _ name; do
  # nginx wipes the environment that it was given from where the kernel shows it, and keeps a copy in its heap.
  [[ $mode == rw?s || ${name:-} == "[heap]" ]] || continue
  from=$((16#${range%-*})) to=$((16#${range#*-}))
  exec 3<"/proc/$kong_pid/mem" # opened by this shell, whose child it is, so that no privilege is needed
  dd bs=4096 skip=$((from / 4096)) count=$(((to - from) / 4096)) <&3 >"$work/seen/shared-$range" 2>"$work/err" || fail "can't read the gateway's shared memory: $(cat "$work/err")"
  exec 3<&-
  [[ $mode != rw?s ]] || zones=$((zones + 1))
done <"/proc/$kong_pid/maps"
[ $zones -gt 0 ] || fail "the gateway has no shared memory"
for secret in "$root_password" "$client_secret"; do
  if grep -rlaF -- "$secret" "$work/seen"; then fail "a key of MinIO's operator is there"; fi
done
if grep -rlaE -- 'PRIVATE KEY|aws_secret_access_key|"secret_access_key"|SecretAccessKey|MC_HOST' "$work/seen"; then fail "a key is there"; fi
while read -r jwt; do
  claims=$(cut -d. -f2 <<<"$jwt" | tr '_-' '/+')
  while [ $((${#claims} % 4)) -ne 0 ]; do claims=$claims=; done
  claims=$(base64 -d <<<"$claims")
  life=$(($(sed 's/.*"exp":\([0-9]*\).*/\1/' <<<"$claims") - $(sed 's/.*"iat":\([0-9]*\).*/\1/' <<<"$claims")))
  [ $life -le 3600 ] || fail "a token lives $life s"
done < <(grep -rhoaE 'eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{80,}' "$work/seen" "$work/kong-token")
ok "none in configurations, environments, arguments, logs, nor in $zones zones of the gateway's shared memory"
ok "MinIO's own root key is MinIO's and its operator's alone; Kong's proof is a token for $(((life + 59) / 60)) minutes"

printf '\n%sIt is all so.%s Neither alice nor Kong nor the broker was ever given a key that lasts.\n' "$green" "$off"
