#!/usr/bin/env bash
# The demo: a real MinIO, a broker and a development identity provider on loopback. It shows each step and exits non-zero
# if one of them doesn't come out as it says.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."

# shellcheck source=scripts/demo/lib.sh
. "$here/lib.sh"

step "1. Programs"
minio=$(scripts/tool minio)
mc=$(scripts/tool mc)
CGO_ENABLED=0 go build -trimpath -o "$work/broker" ./cmd/broker
ok "broker built; MinIO and mc are in this user's cache, pinned by scripts/tools.txt"

http=$(free_port) grpc=$(free_port) ops=$(free_port) idp=$(free_port) s3=$(free_port)
broker_url=http://127.0.0.1:$http
minio_url=http://127.0.0.1:$s3
socket=$work/admin.sock

step "2. The broker, with a development identity provider that knows alice (finance) and bob (engineering)"
CREDBROKER__ISSUER__URL=$broker_url \
CREDBROKER__LISTENERS__HTTP__ADDRESS=127.0.0.1:$http \
CREDBROKER__LISTENERS__GRPC__ADDRESS=127.0.0.1:$grpc \
CREDBROKER__LISTENERS__METRICS__ADDRESS=127.0.0.1:$ops \
CREDBROKER__LISTENERS__ADMIN__SOCKET=$socket \
CREDBROKER__EXCHANGERS__MINIO__ENDPOINT=$minio_url \
CREDBROKER__AUDIT__PATH=$work/audit.jsonl \
  "$work/broker" dev --config "$here/broker.yaml" --idp-address "127.0.0.1:$idp" \
  --user alice:finance --user bob:engineering >"$work/broker.log" 2>&1 &
pids+=($!)
wait_for "broker at $broker_url" "$work/broker" admin --socket "$socket" status

step "3. A real MinIO that trusts the broker's tokens, and no one's key"
# The operator's own root key stays between MinIO and mc; the broker never sees it.
root_user=operator root_password=$(head -c 24 /dev/urandom | base64 | tr -d '/+=')
MINIO_ROOT_USER=$root_user MINIO_ROOT_PASSWORD=$root_password \
MINIO_IDENTITY_OPENID_CONFIG_URL=$broker_url/.well-known/openid-configuration \
MINIO_IDENTITY_OPENID_CLIENT_ID=credbroker \
MINIO_IDENTITY_OPENID_CLIENT_SECRET=$(head -c 32 /dev/urandom | base64) \
MINIO_IDENTITY_OPENID_CLAIM_NAME=policy \
  "$minio" server --quiet --address "127.0.0.1:$s3" "$work/data" >"$work/minio.log" 2>&1 &
pids+=($!)
export MC_CONFIG_DIR=$work/mc MC_NO_COLOR=1
export MC_HOST_root=http://$root_user:$root_password@127.0.0.1:$s3
wait_for "MinIO at $minio_url" "$mc" mb --ignore-existing root/reports
"$mc" mb --quiet root/payroll >/dev/null
"$mc" admin policy create root reports-rw "$here/reports-rw.json" >/dev/null
"$mc" admin policy create root payroll-rw "$here/payroll-rw.json" >/dev/null
echo "the payroll" >"$work/payroll.txt"
"$mc" cp --quiet "$work/payroll.txt" root/payroll/2026.txt >/dev/null
ok "buckets reports and payroll, policies reports-rw and payroll-rw"

get() { # USER: ask the broker for credentials of the role reports, as USER
  "$work/broker" dev-token --idp "http://127.0.0.1:$idp" "$1" |
    "$work/broker" get --endpoint "$broker_url" --token-file - --role reports --format env
}

step "4. alice shows her token and gets credentials for a minute"
get alice >"$work/alice.env" || fail "alice got no credentials"
# shellcheck disable=SC1091
. "$work/alice.env"
started=$SECONDS
export MC_HOST_alice="http://$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY:$AWS_SESSION_TOKEN@127.0.0.1:$s3"
ok "access key $AWS_ACCESS_KEY_ID until $AWS_CREDENTIAL_EXPIRATION"
echo "figures" >"$work/figures.txt"
"$mc" cp --quiet "$work/figures.txt" alice/reports/alice/q3.txt >/dev/null 2>"$work/err" || fail "alice can't write reports/alice/q3.txt: $(cat "$work/err")"
ok "she writes reports/alice/q3.txt"
[ "$("$mc" cat alice/reports/alice/q3.txt)" = figures ] || fail "alice can't read back what she wrote"
ok "she reads it back"

refused() { # WHAT PATTERN COMMAND...
  local what=$1 pattern=$2
  shift 2
  if "$@" >"$work/out" 2>"$work/err"; then fail "$what: it went through"; fi
  grep -Eqi "$pattern" "$work/out" "$work/err" || fail "$what: refused, but not as expected: $(cat "$work/err")"
  ok "$what: refused"
}
refused "she reads payroll/2026.txt" "Access Denied|insufficient permissions" "$mc" cat alice/payroll/2026.txt
refused "she writes reports/bob/x.txt" "Access Denied|insufficient permissions" "$mc" cp --quiet "$work/figures.txt" alice/reports/bob/x.txt

step "5. bob shows his token and is refused the role"
if get bob >"$work/out" 2>"$work/err"; then fail "bob got credentials"; fi
sed 's/^/      /' "$work/err"
request=$(sed -n 's/.*request "\([A-Za-z0-9._-]*\)".*/\1/p' "$work/err")
grep -q permission_denied "$work/err" && [ -n "$request" ] || fail "bob was refused, but not as expected"
ok "he learns a code and a request ID, no more"
"$work/broker" admin --socket "$socket" explain "$request" >"$work/why" || fail "the admin API doesn't know request $request"
grep -q finance "$work/why" || fail "the admin API doesn't give the reason: $(cat "$work/why")"
echo "      The operator asks the admin API why:"
sed 's/^/      /' "$work/why"

step "6. A minute later alice's credentials are worth nothing"
left=$((62 - (SECONDS - started)))
[ $left -le 0 ] || { echo "      waiting ${left} s ..."; sleep "$left"; }
refused "alice reads reports/alice/q3.txt" "expired|invalid|Access Denied|does not exist" "$mc" cat alice/reports/alice/q3.txt

step "7. What the broker wrote down"
# shellcheck disable=SC2002
cut -c1-200 "$work/audit.jsonl" | sed 's/^/      /; s/$/.../'
[ "$(grep -c '"decision":"allowed"' "$work/audit.jsonl")" = 1 ] && [ "$(grep -c '"decision":"denied"' "$work/audit.jsonl")" = 1 ] ||
  fail "the audit log doesn't hold one allowed and one denied decision"
ok "one line for each decision, and no secret in it"
for secret in "$AWS_SECRET_ACCESS_KEY" "$AWS_SESSION_TOKEN" "$root_password"; do
  if grep -rqF -- "$secret" "$work/audit.jsonl" "$work/broker.log"; then fail "a secret stands in a log"; fi
done

printf '\n%sIt is all so.%s Neither alice nor bob nor the broker was ever given a key.\n' "$green" "$off"
