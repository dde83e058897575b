#!/usr/bin/env bash
# The demo with Vault: a real Vault, MinIO and Redis, a broker that holds no secret of its own, and a gateway before it. It shows each step, takes
# Vault away in between, ends with an inventory of every secret there is, and exits non-zero if one of them doesn't come out as it says.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."

# shellcheck source=scripts/demo/lib.sh
. "$here/../lib.sh"

step "1. Programs"
minio=$(scripts/tool minio)
mc=$(scripts/tool mc)
vault=$(scripts/tool vault)
redis=$(scripts/tool redis-server)
redis_cli=$(scripts/tool redis-cli)
scripts/tool nginx-lua >/dev/null
CGO_ENABLED=0 go build -trimpath -o "$work/broker" ./cmd/broker
go build -o "$work/standin" ./internal/kongtest/standin
ok "broker built; MinIO, mc, Vault, Redis and nginx with Lua are in this user's cache, pinned by scripts/tools.txt"

http=$(free_port) grpc=$(free_port) ops=$(free_port) idp=$(free_port) s3=$(free_port) vaults=$(free_port) redises=$(free_port)
gateway=$(free_port) kong=$(free_port) platform=$(free_port) platform_grpc=$(free_port) platform_ops=$(free_port)
broker_url=http://127.0.0.1:$http
minio_url=http://127.0.0.1:$s3
idp_url=http://127.0.0.1:$idp
redis_now() { "$redis_cli" -p "$redises" "$@"; }

step "2. An identity provider: for people, and for workloads such as the broker"
# It stands for what a platform has: the kubelet keeps a token of minutes in a file for each workload.
CREDBROKER__ISSUER__URL=http://127.0.0.1:$platform CREDBROKER__LISTENERS__HTTP__ADDRESS=127.0.0.1:$platform \
CREDBROKER__LISTENERS__GRPC__ADDRESS=127.0.0.1:$platform_grpc CREDBROKER__LISTENERS__METRICS__ADDRESS=127.0.0.1:$platform_ops \
CREDBROKER__LISTENERS__ADMIN__SOCKET=$work/platform.sock \
  "$work/broker" dev --idp-address "127.0.0.1:$idp" --user alice:finance --user carol:finance --user bob:engineering --user credbroker: --user kong: \
  >"$work/platform.log" 2>&1 &
pids+=($!)
token_of() { "$work/broker" dev-token --idp "$idp_url" "$1"; }
wait_for "identity provider at $idp_url" token_of credbroker
renew_files() {
  local who
  for who in credbroker kong; do token_of $who >"$work/$who.jwt.next" && mv "$work/$who.jwt.next" "$work/$who.jwt"; done
}
renew_files
(while sleep 120; do renew_files; done) >/dev/null 2>&1 &
pids+=($!)
ok "the broker's own token and Kong's are in files, good for five minutes, and renewed there"

step "3. A real Vault, prepared by deploy/vault/prepare.sh"
export VAULT_ADDR=http://127.0.0.1:$vaults
"$vault" -address "127.0.0.1:$vaults" -data "$work/vault" >"$work/vault.log" 2>&1 &
pids+=($!)
wait_for "Vault at $VAULT_ADDR" curl -s "$VAULT_ADDR/v1/sys/seal-status"
member() { sed -n "s/.*\"$1\":\[\{0,1\}\"\([^\"]*\)\".*/\1/p"; }
made=$(curl -sf -X PUT -d '{"secret_shares":1,"secret_threshold":1}' "$VAULT_ADDR/v1/sys/init")
unseal_key=$(member keys <<<"$made") operator=$(member root_token <<<"$made")
unseal() { curl -sf -X PUT -d @- "$VAULT_ADDR/v1/sys/unseal" >/dev/null <<<"{\"key\":\"$unseal_key\"}"; }
as_operator() { curl -sf -H @/dev/fd/3 "$@" 3<<<"X-Vault-Token: $operator"; }
unseal
wait_for "Vault unsealed" curl -sf "$VAULT_ADDR/v1/sys/health"
VAULT_TOKEN=$operator JWT_ISSUER=$idp_url JWT_AUDIENCE=credbroker JWT_SUBJECT=credbroker deploy/vault/prepare.sh issuer sealing jwt 2>&1 | sed 's/^/      /'
ok "Transit has a key that signs and one that wraps; the broker's role may use them, and nothing else"

step "4. A real Redis, and the broker"
"$redis" --port "$redises" --bind 127.0.0.1 --save '' --appendonly no --dir "$work" >"$work/redis.log" 2>&1 &
pids+=($!)
wait_for "Redis" redis_now ping
cp "$here/broker.yaml" "$work/broker.yaml"
sed -i "s|http://127.0.0.1:8081|$idp_url|; s|127.0.0.1:6379|127.0.0.1:$redises|; s|token_file: broker.jwt|token_file: $work/credbroker.jwt|" "$work/broker.yaml"
CREDBROKER__ISSUER__URL=$broker_url CREDBROKER__VAULT__ADDRESS=$VAULT_ADDR CREDBROKER__EXCHANGERS__MINIO__ENDPOINT=$minio_url \
CREDBROKER__LISTENERS__HTTP__ADDRESS=127.0.0.1:$http CREDBROKER__LISTENERS__GRPC__ADDRESS=127.0.0.1:$grpc \
CREDBROKER__LISTENERS__GATEWAY__ADDRESS=127.0.0.1:$gateway CREDBROKER__LISTENERS__METRICS__ADDRESS=127.0.0.1:$ops \
CREDBROKER__LISTENERS__ADMIN__SOCKET=$work/admin.sock CREDBROKER__AUDIT__PATH=$work/audit.jsonl \
  env -u VAULT_ADDR "$work/broker" serve --config "$work/broker.yaml" >"$work/broker.log" 2>&1 &
broker_pid=$!
pids+=($broker_pid)
healthy() { ! curl -sf "http://127.0.0.1:$ops/readyz" | grep -E '"(vault|redis|issuer): '; }
up() { curl -sf "http://127.0.0.1:$ops/readyz" && healthy; }
wait_for "broker at $broker_url: logged in to Vault, keys unwrapped" up

step "5. A real MinIO that trusts the tokens that Vault signs for the broker"
root_user=operator root_password=$(head -c 24 /dev/urandom | base64 | tr -d '/+=') client_secret=$(head -c 32 /dev/urandom | base64)
MINIO_ROOT_USER=$root_user MINIO_ROOT_PASSWORD=$root_password \
MINIO_IDENTITY_OPENID_CONFIG_URL=$broker_url/.well-known/openid-configuration \
MINIO_IDENTITY_OPENID_CLIENT_ID=credbroker MINIO_IDENTITY_OPENID_CLIENT_SECRET=$client_secret MINIO_IDENTITY_OPENID_CLAIM_NAME=policy \
  "$minio" server --quiet --address "127.0.0.1:$s3" "$work/data" >"$work/minio.log" 2>&1 &
pids+=($!)
export MC_CONFIG_DIR=$work/mc MC_NO_COLOR=1
as_root() { MC_HOST_root=http://$root_user:$root_password@127.0.0.1:$s3 "$mc" "$@"; }
wait_for "MinIO at $minio_url" as_root mb --ignore-existing root/reports
as_root admin policy create root reports-rw "$here/../reports-rw.json" >/dev/null

get() { # USER: ask the broker for credentials of the role reports, as USER
  token_of "$1" | "$work/broker" get --endpoint "$broker_url" --token-file - --role reports --format env
}
works() { # USER: whether the credentials in $work/USER.env write and read
  # shellcheck disable=SC1090
  (. "$work/$1.env" && export MC_HOST_it="http://$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY:$AWS_SESSION_TOKEN@127.0.0.1:$s3" &&
    echo figures | "$mc" pipe --quiet "it/reports/$1/q3.txt" >/dev/null && [ "$("$mc" cat "it/reports/$1/q3.txt")" = figures ])
}

step "6. alice shows her token: broker → Vault (signs) → MinIO → credentials for five minutes"
get alice >"$work/alice.env" || fail "alice got no credentials"
works alice || fail "alice's credentials don't work"
ok "she writes and reads reports/alice/q3.txt"
if get bob >"$work/out" 2>"$work/err"; then fail "bob got credentials"; fi
grep -q permission_denied "$work/err" || fail "bob was refused, but not as expected"
ok "bob is refused: permission_denied"

step "7. The same by Kong, which holds no key: gateway role → broker → Vault → MinIO"
# nginx with Lua in Kong's role, with deploy/kong's plugin and kong.yml, but for hosts, files and the provider's key (make demo-kong shows more).
mkdir "$work/kong"
curl -fsS "$idp_url/key.pem" >"$work/key.pem"
awk -v key="$work/key.pem" '
  /-----BEGIN PUBLIC KEY-----/ { while ((getline line < key) > 0) print "          " line; skip = 1 }
  !skip { print }
  /-----END PUBLIC KEY-----/ { skip = 0 }' deploy/kong/kong.yml |
  sed -e "s|https://minio.example:9000|$minio_url|; s|https://broker.example:8444|http://127.0.0.1:$gateway|; s|https://broker.example:8443|$broker_url|" \
    -e "s|/var/run/secrets/credbroker/token|$work/kong.jwt|; s|/dev/stdout|$work/kong.log|" >"$work/kong.yml"
env -u VAULT_ADDR "$work/standin" "$work/kong.yml" "$work/kong" "$kong" >"$work/kong/output.log" 2>&1 &
kong_pid=$!
pids+=($kong_pid)
by_kong() { # USER METHOD PATH [CURL'S ARGUMENTS...]: prints the status; the body is in $work/out
  local user=$1 method=$2 path=$3
  shift 3
  curl -sS -o "$work/out" -w '%{http_code}' -H @/dev/fd/3 -H "Host: s3.example" -X "$method" "$@" "http://127.0.0.1:$kong$path" 3<<<"Authorization: Bearer $(token_of "$user")"
}
kong_works() { [ "$(by_kong alice PUT /reports/acme/q4.txt -d figures)" = 200 ]; }
wait_for "alice of acme writes reports/acme/q4.txt through Kong, with her token alone" kong_works
[ "$(by_kong alice GET /reports/acme/q4.txt)" = 200 ] && [ "$(cat "$work/out")" = figures ] || fail "she doesn't read it back"
[ "$(by_kong bob GET /reports/acme/q4.txt)" = 403 ] || fail "bob of umbrella reads acme's"
ok "she reads it back; bob of umbrella is refused"
grep -q '"event":"open_gateway_session","decision":"allowed"' "$work/audit.jsonl" || fail "Kong has no session"

step "8. Vault is sealed: what is cached is served, the rest is told to come back"
as_operator -X PUT "$VAULT_ADDR/v1/sys/seal" >/dev/null
get alice >"$work/alice.again" || fail "alice got no cached credentials"
cmp -s "$work/alice.env" "$work/alice.again" || fail "alice got other credentials"
ok "alice gets the same credentials, which work: $(works alice && echo yes)"
kong_works || fail "alice is refused by Kong: $(cat "$work/out")"
ok "so does what Kong signs for her"
if get carol >"$work/out" 2>"$work/err"; then fail "carol got credentials without Vault"; fi
grep -q exchange_unavailable "$work/err" || fail "carol was refused, but not as expected: $(cat "$work/err")"
ok "carol, who is new, is told exchange_unavailable"
wait_for "/readyz tells why, and stays ready" bash -c "curl -sf http://127.0.0.1:$ops/readyz | grep '\"vault: '"
curl -s "http://127.0.0.1:$ops/readyz" | tr ',' '\n' | grep -E '"?(vault|issuer): ' | cut -c1-150 | sed 's/^/      /'
unseal
carol_has_some() { get carol >"$work/carol.env"; }
wait_for "Vault unsealed: carol gets hers" carol_has_some
works carol || fail "carol's credentials don't work"

step "9. The key is rotated in Vault"
as_operator -X PUT "$VAULT_ADDR/v1/transit/keys/credbroker/rotate" >/dev/null
two_keys() { [ "$(curl -sf "$broker_url/jwks" | grep -o '"kid"' | wc -l)" = 2 ]; }
wait_for "both versions are in the broker's JWK set; the new one signs a minute from now" two_keys

step "10. The inventory: each secret in a configuration, an environment, Redis or Vault's KV"
mounts=$(as_operator "$VAULT_ADDR/v1/sys/mounts")
as_operator -X PUT "$VAULT_ADDR/v1/auth/token/revoke-self" >/dev/null # the operator is done
row() { printf '      %-34s %-36s %-24s %s\n' "$@"; }
# shellcheck disable=SC1091
alice_secret=$(. "$work/alice.env" && echo "$AWS_SECRET_ACCESS_KEY") alice_token=$(. "$work/alice.env" && echo "$AWS_SESSION_TOKEN")
redis_now --rdb "$work/dump.rdb" >/dev/null 2>&1
for pid in $broker_pid $kong_pid $(pgrep -P $kong_pid); do tr '\0' '\n' <"/proc/$pid/environ"; done >"$work/environ"
nowhere() { # WHAT TEXT: it is in nothing that the inventory covers, but for MinIO's own environment
  if grep -rqaF -- "$2" "$work/broker.yaml" "$work/kong.yml" "$work/kong" "$work/kong.log" "$work/environ" "$work/credbroker.jwt" "$work/kong.jwt" "$work/dump.rdb" "$work/vault" "$work/broker.log" "$work/audit.jsonl"; then fail "$1 stands where nobody needs it"; fi
}
nowhere "MinIO's root key" "$root_password"
nowhere "MinIO's client secret" "$client_secret"
nowhere "alice's secret key" "$alice_secret"
nowhere "alice's session token" "$alice_token"
nowhere "Vault's unseal key" "$unseal_key"
nowhere "the operator's Vault token" "$operator"
left() { # FILE: for how many seconds the JWT in it is good
  local end
  end=$(cut -d. -f2 "$1" | tr '_-' '/+' | { base64 -d 2>/dev/null || true; } | sed -n 's/.*"exp":\([0-9]*\).*/\1/p')
  echo $((end - $(date +%s)))
}
life=$(left "$work/credbroker.jwt") kong_life=$(left "$work/kong.jwt")
[ "$life" -gt 0 ] && [ "$life" -le 300 ] || fail "the broker's token lasts for $life s"
[ "$kong_life" -gt 0 ] && [ "$kong_life" -le 300 ] || fail "Kong's token lasts for $kong_life s"
session=$(curl -sf "http://127.0.0.1:$ops/metrics" | sed -n 's/^credbroker_vault_token_remaining_seconds \([0-9]*\).*/\1/p')
[ "$session" -gt 0 ] && [ "$session" -le 3600 ] || fail "the broker's Vault token lasts for $session s"
if grep -qi '"type":"kv"' <<<"$mounts"; then fail "Vault has a KV engine"; fi
redis_keys=$(redis_now --scan | LC_ALL=C sort)
while read -r key; do
  case $key in
    credbroker:keys | credbroker:c:* | credbroker:l:* | credbroker:used:*) ;;
    credbroker:gateway:*)
      ends=$(redis_now ttl "$key")
      [ "$ends" -gt 0 ] && [ "$ends" -le 3600 ] || fail "a gateway session lasts for $ends s"
      ;;
    *) fail "Redis has a key that this inventory doesn't know: $key" ;;
  esac
done <<<"$redis_keys"
count() { grep -c "^credbroker:$1" <<<"$redis_keys" || true; }
row "WHERE" "WHAT" "WHO HOLDS IT" "HOW LONG IT LIVES"
row "the broker's configuration" "none: paths and addresses" "-" "-"
row "the broker's environment" "none: addresses" "-" "-"
row "the file that it names" "JWT of its workload identity" "broker, platform" "5 min; $life s left"
row "its memory" "Vault token" "broker" "20 min, 1 h at most; $session s left"
row "its memory" "keys of what lies in Redis" "broker" "as it runs; wrapped by Vault elsewhere"
row "Redis" "$(count keys) data key, wrapped by Vault" "nobody without Vault" "noise without Vault"
row "Redis" "$(count c:) entries, sealed" "nobody without Vault" "5 min"
row "Redis" "$(count gateway:) gateway session, sealed" "nobody without Vault" "30 min; $ends s left"
row "Vault, Transit" "keys that sign and wrap" "Vault alone" "rotated; never leave it"
row "Vault, KV" "none: there is no KV engine" "-" "-"
row "Vault's operator" "unseal key (admin token: revoked)" "operator" "the operator's own"
row "MinIO's environment" "its root key and its client secret" "MinIO and its operator" "MinIO's own; nobody else's"
row "Kong's configuration" "a public key; paths and addresses" "-" "-"
row "the file that it names" "JWT of its workload identity" "Kong, platform" "5 min; $kong_life s left"
row "Kong's memory" "gateway session's key" "Kong" "30 min"
row "Kong's memory" "alice's S3 credentials" "Kong" "5 min"
row "alice, carol" "S3 credentials" "each her own" "5 min"
ok "no storage key in what the broker, Kong, Redis or Vault hold, and nothing in their files or environments that outlives an hour"

printf '\n%sIt is all so.%s The broker had no secret of its own, and what it was lent ends by itself.\n' "$green" "$off"
