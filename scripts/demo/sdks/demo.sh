#!/usr/bin/env bash
# The demo of stock SDKs: each client, in an environment that holds its variables and nothing else, lists a bucket of a real MinIO with
# credentials of a broker, asks for credentials anew, and lists again; so does a real Vault's AWS engine. Then what the broker's endpoints, the
# agent's and MinIO's own STS answer to SDKs and to bad input. It exits non-zero if something doesn't come out as it says.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
# shellcheck source=scripts/demo/lib.sh
. "$here/../lib.sh"

step "1. Programs"
minio=$(scripts/tool minio)
mc=$(scripts/tool mc)
aws=$(scripts/tool aws)
vault=$(scripts/tool vault)
CGO_ENABLED=0 go build -trimpath -o "$work/broker" ./cmd/broker
go build -o "$work/aws-sdk-go-v2" ./scripts/sdks/aws-sdk-go-v2
go build -o "$work/minio-go" ./scripts/sdks/minio-go
ok "broker and Go clients built; MinIO, mc, Vault and AWS CLI 2.9 are in this user's cache, pinned by scripts/tools.txt"
# What can't be fetched without root runs where the machine has it.
node='' boto3='' newer=''
if [ "$(node --version 2>/dev/null | sed 's/^v\([0-9]*\).*/\1/')" -ge 20 ] 2>/dev/null; then
  mkdir "$work/js"
  cp scripts/sdks/javascript/* "$work/js/"
  (cd "$work/js" && npm ci --ignore-scripts --no-audit --no-fund >"$work/npm.log" 2>&1) || { cat "$work/npm.log"; fail "npm ci"; }
  node=$(command -v node)
  ok "AWS SDK for JavaScript v3 by npm, as its lock file says"
fi
if python3 -c 'import boto3' 2>/dev/null; then boto3=$(python3 -c 'import boto3; print(boto3.__version__)') && ok "boto3 $boto3 is on this machine"; fi
version=$(aws --version 2>/dev/null | sed -n 's|^aws-cli/\([0-9]*\.[0-9]*\).*|\1|p')
# AWS_ENDPOINT_URL came with 1.29 and 2.13.
case $version in
  1.29 | 1.[3-9][0-9] | 2.1[3-9] | 2.[2-9][0-9]) newer=$(command -v aws) && ok "AWS CLI $version is on this machine too" ;;
esac

http=$(free_port) grpc=$(free_port) ops=$(free_port) idp=$(free_port) s3=$(free_port) own=$(free_port) port=$(free_port) vaults=$(free_port)
broker_url=http://127.0.0.1:$http
minio_url=http://127.0.0.1:$s3
socket=$work/admin.sock

step "2. The broker, with a development identity provider that knows alice (finance) and carol"
vault_key=$(head -c 10 /dev/urandom | od -An -tx1 | tr -d ' \n' | tr a-f A-F) vault_secret=$(head -c 24 /dev/urandom | base64 | tr -d '/+=')
(umask 077 && printf '{"access_key_id":"%s","secret_access_key":"%s"}' "$vault_key" "$vault_secret" >"$work/vault-key.json")
sed "s|vault-key.json|$work/vault-key.json|" "$here/broker.yaml" >"$work/broker.yaml"
CREDBROKER__ISSUER__URL=$broker_url \
CREDBROKER__LISTENERS__HTTP__ADDRESS=127.0.0.1:$http \
CREDBROKER__LISTENERS__GRPC__ADDRESS=127.0.0.1:$grpc \
CREDBROKER__LISTENERS__METRICS__ADDRESS=127.0.0.1:$ops \
CREDBROKER__LISTENERS__ADMIN__SOCKET=$socket \
CREDBROKER__EXCHANGERS__MINIO__ENDPOINT=$minio_url \
CREDBROKER__AUDIT__PATH=$work/audit.jsonl \
  "$work/broker" dev --config "$work/broker.yaml" --idp-address "127.0.0.1:$idp" \
  --user alice:finance --user carol:readwrite >"$work/broker.log" 2>&1 &
pids+=($!)
wait_for "broker at $broker_url" "$work/broker" admin --socket "$socket" status
# As a platform projects it: without a line break.
token() { "$work/broker" dev-token --idp "http://127.0.0.1:$idp" "$1" | tr -d '\n'; }
token alice >"$work/token"

step "3. A real MinIO that trusts the broker's tokens; and one that trusts the identity provider's, for its own STS"
root_user=operator root_password=$(head -c 24 /dev/urandom | base64 | tr -d '/+=')
start_minio() { # PORT ISSUER CLAIM LOG
  MINIO_ROOT_USER=$root_user MINIO_ROOT_PASSWORD=$root_password \
  MINIO_IDENTITY_OPENID_CONFIG_URL=$2/.well-known/openid-configuration \
  MINIO_IDENTITY_OPENID_CLIENT_ID=credbroker \
  MINIO_IDENTITY_OPENID_CLIENT_SECRET=$(head -c 32 /dev/urandom | base64) \
  MINIO_IDENTITY_OPENID_CLAIM_NAME=$3 \
    "$minio" server --quiet --address "127.0.0.1:$1" "$work/data-$1" >"$work/$4.log" 2>&1 &
  pids+=($!)
}
start_minio "$s3" "$broker_url" policy minio
start_minio "$own" "http://127.0.0.1:$idp" groups minio-own
export MC_CONFIG_DIR=$work/mc MC_NO_COLOR=1
export MC_HOST_root=http://$root_user:$root_password@127.0.0.1:$s3 MC_HOST_own=http://$root_user:$root_password@127.0.0.1:$own
wait_for "MinIO at $minio_url" "$mc" mb --ignore-existing root/reports
wait_for "MinIO with an STS of its own at http://127.0.0.1:$own" "$mc" mb --ignore-existing own/reports
"$mc" admin policy create root lister "$here/lister.json" >/dev/null
echo figures >"$work/figures.txt"
"$mc" cp --quiet "$work/figures.txt" root/reports/q3.txt >/dev/null
unset MC_CONFIG_DIR MC_HOST_root MC_HOST_own

step "4. An agent beside them, which proves alice's identity for programs that can't"
"$work/broker" agent --endpoint "$broker_url" --token-file "$work/token" --role lister --listen "127.0.0.1:$port" \
  --authorization-file "$work/agent-token" >"$work/agent.log" 2>&1 &
pids+=($!)
wait_for "agent at 127.0.0.1:$port has credentials" curl -fsS "http://127.0.0.1:$port/healthz"

step "5. A real Vault whose AWS engine takes the broker for AWS STS"
"$vault" -address "127.0.0.1:$vaults" -data "$work/vault" >"$work/vault.log" 2>&1 &
pids+=($!)
vault_url=http://127.0.0.1:$vaults
wait_for "Vault at $vault_url" curl -s "$vault_url/v1/sys/seal-status"
member() { sed -n "s/.*\"$1\":\[\{0,1\}\"\([^\"]*\)\".*/\1/p"; }
made=$(curl -sf -X PUT -d '{"secret_shares":1,"secret_threshold":1}' "$vault_url/v1/sys/init")
operator=$(member root_token <<<"$made")
curl -sf -X PUT -d "{\"key\":\"$(member keys <<<"$made")\"}" "$vault_url/v1/sys/unseal" >/dev/null
wait_for "Vault unsealed" curl -sf "$vault_url/v1/sys/health"
write() { curl -sf -X PUT -H "X-Vault-Token: $operator" -d "$2" "$vault_url/v1/$1"; }
write sys/mounts/aws '{"type":"aws"}'
write aws/config/root "{\"access_key\":\"$vault_key\",\"secret_key\":\"$vault_secret\",\"region\":\"us-east-1\",\"sts_region\":\"us-east-1\",
  \"sts_endpoint\":\"$broker_url/sts\",\"iam_endpoint\":\"$broker_url/sts\"}"
write aws/roles/reports '{"credential_type":"assumed_role","role_arns":"arn:aws:iam::000000000000:role/engine",
  "policy_document":"{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":[\"s3:ListBucket\"],\"Resource\":[\"arn:aws:s3:::reports\"]}]}"}'
ok "it has a key that is nobody's at MinIO, and a role that may list"

step "6. Each client lists reports/, asks for credentials anew, and lists again"
role=arn:aws:iam::000000000000:role/lister
s3_env=(AWS_ENDPOINT_URL_S3="$minio_url" AWS_REGION=us-east-1)
sts=(AWS_ENDPOINT_URL_STS="$broker_url/sts" AWS_WEB_IDENTITY_TOKEN_FILE="$work/token" AWS_ROLE_ARN=$role)
container=(AWS_CONTAINER_CREDENTIALS_FULL_URI="$broker_url/v1/container-credentials/lister" AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE="$work/token")
agent=(AWS_CONTAINER_CREDENTIALS_FULL_URI="http://127.0.0.1:$port/v1/container-credentials/lister" AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE="$work/agent-token")
row() { printf '  %-34s %-16s %s\n' "$@"; }
failed=0
run() { # CLIENT PROTOCOL [VARIABLE=VALUE...] -- COMMAND...
  local client=$1 protocol=$2 env=()
  shift 2
  while [ "$1" != -- ]; do env+=("$1"); shift; done
  shift
  if env -i PATH="$PATH" HOME="$work/home" BUCKET=reports AWS_EC2_METADATA_DISABLED=true "${env[@]}" "$@" >"$work/out" 2>&1 &&
    [ "$(grep -c '^objects: 1$' "$work/out")" = 2 ]; then
    row "$client" "$protocol" "${green}ok${off}"
  else
    row "$client" "$protocol" "${red}FAILED${off}"
    sed 's/^/      /' "$work/out"
    failed=1
  fi
}
twice() { # COMMAND...: for programs that end, and so start anew; each line of theirs is an object
  run "${@:1:$((split - 1))}" -- bash -ec 'for i in 1 2; do lines=$("$@"); echo "objects: $(wc -l <<<"$lines")"; done' twice "${@:$((split + 1))}"
}
mkdir "$work/home"
row CLIENT PROTOCOL RESULT
for program in aws-sdk-go-v2 minio-go; do
  run "$program" "STS" "${sts[@]}" "${s3_env[@]}" -- "$work/$program"
  run "$program" "container" "${container[@]}" "${s3_env[@]}" -- "$work/$program"
  run "$program" "container, agent" "${agent[@]}" "${s3_env[@]}" -- "$work/$program"
done
split=7 twice mc "STS" MC_HOST_s="$minio_url" MC_STS_ENDPOINT_s="$broker_url/sts" MC_WEB_IDENTITY_TOKEN_FILE_s="$work/token" MC_ROLE_ARN_s=$role -- "$mc" ls s/reports
split=6 twice "AWS CLI 2.9" "container" "${container[0]}" AWS_CONTAINER_AUTHORIZATION_TOKEN="$(cat "$work/token")" AWS_REGION=us-east-1 -- \
  "$aws" --endpoint-url "$minio_url" s3 ls s3://reports
split=4 twice "AWS CLI 2.9" "STS, explicitly" AWS_REGION=us-east-1 -- "$aws" --endpoint-url "$broker_url/sts" sts assume-role-with-web-identity \
  --role-session-name demo --output text --query Credentials.AccessKeyId --role-arn $role --web-identity-token "file://$work/token"
if [ -n "$newer" ]; then
  split=8 twice "AWS CLI $version" "STS" "${sts[@]}" "${s3_env[@]}" -- "$newer" s3 ls s3://reports
  split=7 twice "AWS CLI $version" "container" "${container[@]}" "${s3_env[@]}" -- "$newer" s3 ls s3://reports
  split=7 twice "AWS CLI $version" "container, agent" "${agent[@]}" "${s3_env[@]}" -- "$newer" s3 ls s3://reports
else
  row "AWS CLI 1.29, 2.13 or later" - "not on this machine"
fi
if [ -n "$node" ]; then
  cd "$work/js"
  run "JavaScript v3" "STS" "${sts[@]}" "${s3_env[@]}" -- "$node" client.mjs
  run "JavaScript v3" "container" "${container[@]}" "${s3_env[@]}" -- "$node" client.mjs
  run "JavaScript v3" "container, agent" "${agent[@]}" "${s3_env[@]}" -- "$node" client.mjs
  cd "$here/../../.."
else
  row "JavaScript v3" - "not run: no Node.js 20 or later on this machine"
fi
if [ -n "$boto3" ]; then
  run "boto3 $boto3" "STS" "${sts[@]}" "${s3_env[@]}" -- python3 scripts/sdks/boto3/client.py
  run "boto3 $boto3" "container" "${container[@]}" "${s3_env[@]}" -- python3 scripts/sdks/boto3/client.py
  run "boto3 $boto3" "container, agent" "${agent[@]}" "${s3_env[@]}" -- python3 scripts/sdks/boto3/client.py
else
  row boto3 - "not on this machine"
fi
from_vault() { # objects that credentials of the engine list
  local got
  got=$(write aws/sts/reports '{"ttl":"30m"}') || return 1
  MC_HOST_v="http://$(member access_key <<<"$got"):$(member secret_key <<<"$got"):$(member session_token <<<"$got")@127.0.0.1:$s3" MC_CONFIG_DIR=$work/mc "$mc" ls v/reports
}
if [ "$(from_vault | wc -l)" = 1 ] && [ "$(from_vault | wc -l)" = 1 ]; then
  row "Vault's AWS engine, mc" "STS, SigV4" "${green}ok${off}"
else
  row "Vault's AWS engine, mc" "STS, SigV4" "${red}FAILED${off}"
  failed=1
fi
[ $failed = 0 ] || fail "a client did not get through"

step "7. What the endpoints answer, check by check"
conformance() { "$work/broker" conformance --role lister "$@"; }
for check in "sts $broker_url/sts token" "container $broker_url/v1/container-credentials/lister token" "oauth $broker_url/oauth/token token" \
  "container http://127.0.0.1:$port/v1/container-credentials/lister agent-token"; do
  read -r surface url file <<<"$check"
  conformance --surface "$surface" --endpoint "$url" --token-file "$work/$file" >"$work/out" 2>"$work/err" || { cat "$work/out"; fail "$surface at $url: $(cat "$work/err")"; }
  ok "$surface at $url: $(grep -c ' pass ' "$work/out") of $(($(wc -l <"$work/out") - 1)) checks"
done
echo "      MinIO's own STS, which was never said to be AWS's to the letter:"
token carol >"$work/carol"
if conformance --surface sts --endpoint "http://127.0.0.1:$own" --token-file "$work/carol" >"$work/out" 2>"$work/err"; then fail "MinIO's STS passes all checks: docs/sdk-surfaces.md says otherwise"; fi
grep -q '^sts.success *pass' "$work/out" || { cat "$work/out" "$work/err"; fail "MinIO's STS gave no credentials"; }
cut -c1-150 "$work/out" | sed 's/^/      /'

printf '\n%sIt is all so.%s No client knew of the broker, and none had a key of its own there.\n' "$green" "$off"
