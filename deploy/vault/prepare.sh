#!/usr/bin/env bash
# Prepares a Vault for the broker: engines, keys, policies of least privilege and a login, each only if it is asked for. It may be run
# again: what is there stays. It needs bash, curl, and a token that may administer Vault; the broker's own login gets none of that.
#
#   VAULT_ADDR=https://vault.internal:8200 VAULT_TOKEN=... [VAULT_CACERT=ca.pem] [VAULT_NAMESPACE=team] ./prepare.sh STEP...
#
#   issuer      a Transit key that signs the broker's tokens (issuer.transit), rotated daily
#   sealing     a Transit key that wraps what seals entries in Redis (redis.transit), rotated monthly
#   identity    Vault's identity tokens for MinIO (exchangers.NAME.identity_role):
#               CLIENT_ID, POLICIES (names with commas between), IDENTITY_ISSUER (Vault's URL as MinIO reaches it),
#               IDENTITY_TTL (15m)
#   certificates  client certificates for AssumeRoleWithCertificate, whose common name is a policy: POLICIES, [CERTIFICATE_TTL (1h)];
#               the root for MinIO is at GET pki/ca/pem
#   parent      a place in KV version 2 for the key of a MinIO user: kv/credbroker/parent, with access_key_id and secret_access_key
#   keys        a place in KV version 2 for keys that sign STS requests: kv/credbroker/access-keys/NAME, with access_key_id and secret_access_key
#   aws         the leases of aws/sts/credbroker, a role of an AWS engine that you configure
#   kubernetes  the broker logs in with its pod's token: KUBERNETES_HOST, KUBERNETES_CA_FILE, REVIEWER_TOKEN_FILE,
#               BROKER_NAMESPACE, BROKER_ACCOUNT, BROKER_AUDIENCE
#   jwt         the broker logs in with a JWT: JWT_ISSUER, [JWT_CA_FILE], JWT_AUDIENCE, JWT_SUBJECT
#   approle     the broker logs in with a role ID and a secret ID; nothing of either is printed
#
# A login gets the policies of the steps that stand before it. The broker's tokens last 20 minutes and an hour at most.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${VAULT_ADDR:?the URL of Vault}" "${VAULT_TOKEN:?a token that may administer Vault}"
policies=()

# api METHOD PATH [JSON]: the answer goes to standard output. The token goes by a file descriptor, and so into no process list.
api() {
  local arguments=(--silent --show-error --fail-with-body --request "$1" --header @/dev/fd/3)
  [ -z "${VAULT_CACERT:-}" ] || arguments+=(--cacert "$VAULT_CACERT")
  [ -z "${VAULT_NAMESPACE:-}" ] || arguments+=(--header "X-Vault-Namespace: $VAULT_NAMESPACE")
  if [ $# -gt 2 ]; then
    curl "${arguments[@]}" --data-binary @- "$VAULT_ADDR/v1/$2" 3<<<"X-Vault-Token: $VAULT_TOKEN" <<<"$3"
  else
    curl "${arguments[@]}" "$VAULT_ADDR/v1/$2" 3<<<"X-Vault-Token: $VAULT_TOKEN"
  fi
}

# text STRING: as a string of JSON.
text() {
  local s=$1
  s=${s//\\/\\\\}
  s=${s//\"/\\\"}
  s=${s//$'\t'/\\t}
  s=${s//$'\r'/\\r}
  printf '"%s"' "${s//$'\n'/\\n}"
}

# is_there PATH
is_there() { api GET "$1" >/dev/null 2>&1; }

# mount sys/mounts/NAME TYPE, or sys/auth/NAME TYPE
mount() { is_there "$1/tune" || api POST "$1" "{\"type\":$(text "$2")}"; }

# allow NAME: the policy of policies/NAME.hcl, which the next login gets
allow() {
  api PUT "sys/policies/acl/$1" "{\"policy\":$(text "$(cat "$here/policies/$1.hcl")")}"
  policies+=("$1")
}

# granted: what the broker's tokens get, as members of JSON
granted() {
  local list
  list=$(IFS=,; echo "${policies[*]:?a login without policies: give its steps before it}")
  printf '"token_policies":%s,"token_ttl":"20m","token_max_ttl":"1h","token_no_default_policy":false' "$(text "$list")"
}

# names LIST: a list with commas between, as one of JSON
names() {
  local name out=()
  IFS=, read -ra out <<<"$1"
  for name in "${!out[@]}"; do out[name]=$(text "${out[name]}"); done
  (IFS=,; printf '[%s]' "${out[*]}")
}

step_issuer() {
  mount sys/mounts/transit transit
  is_there transit/keys/credbroker || api POST transit/keys/credbroker '{"type":"ecdsa-p256","auto_rotate_period":"24h"}' >/dev/null
  allow credbroker-issuer
}

step_sealing() {
  mount sys/mounts/transit transit
  is_there transit/keys/credbroker-sealing || api POST transit/keys/credbroker-sealing '{"type":"aes256-gcm96","auto_rotate_period":"720h"}' >/dev/null
  allow credbroker-sealing
}

step_identity() {
  : "${CLIENT_ID:?}" "${POLICIES:?}" "${IDENTITY_ISSUER:?}"
  api POST identity/oidc/config "{\"issuer\":$(text "$IDENTITY_ISSUER")}" >/dev/null
  api POST identity/oidc/key/credbroker "{\"algorithm\":\"ES256\",\"rotation_period\":\"24h\",\"verification_ttl\":\"24h\",\"allowed_client_ids\":[$(text "$CLIENT_ID")]}"
  api POST identity/oidc/role/credbroker "{\"key\":\"credbroker\",\"client_id\":$(text "$CLIENT_ID"),\"ttl\":$(text "${IDENTITY_TTL:-15m}"),\"template\":$(text "{\"policy\":$(names "$POLICIES")}")}"
  allow credbroker-identity
}

step_certificates() {
  : "${POLICIES:?}"
  mount sys/mounts/pki pki
  # A root for this alone: whoever it signs for may be any policy of MinIO's.
  [ -n "$(api GET pki/ca/pem 2>/dev/null)" ] || {
    api POST sys/mounts/pki/tune '{"max_lease_ttl":"87600h"}'
    api POST pki/root/generate/internal '{"common_name":"credbroker clients","key_type":"ec","key_bits":256,"ttl":"87600h"}' >/dev/null
  }
  api POST pki/roles/credbroker "{\"allowed_domains\":$(names "$POLICIES"),\"allow_bare_domains\":true,\"enforce_hostnames\":false,\"key_type\":\"ec\",\"key_bits\":256,\"server_flag\":false,\"client_flag\":true,\"allow_ip_sans\":false,\"allow_localhost\":false,\"no_store\":true,\"max_ttl\":$(text "${CERTIFICATE_TTL:-1h}")}" >/dev/null
  allow credbroker-certificates
}

kv_is_there() { is_there sys/mounts/kv/tune || api POST sys/mounts/kv '{"type":"kv","options":{"version":"2"}}'; }

step_parent() {
  kv_is_there
  allow credbroker-parent
}

step_keys() {
  kv_is_there
  allow credbroker-keys
}

step_aws() { allow credbroker-aws; }

step_kubernetes() {
  : "${KUBERNETES_HOST:?}" "${KUBERNETES_CA_FILE:?}" "${REVIEWER_TOKEN_FILE:?}" "${BROKER_NAMESPACE:?}" "${BROKER_ACCOUNT:?}" "${BROKER_AUDIENCE:?}"
  mount sys/auth/kubernetes kubernetes
  api POST auth/kubernetes/config "{\"kubernetes_host\":$(text "$KUBERNETES_HOST"),\"kubernetes_ca_cert\":$(text "$(cat "$KUBERNETES_CA_FILE")"),\"token_reviewer_jwt\":$(text "$(cat "$REVIEWER_TOKEN_FILE")"),\"disable_local_ca_jwt\":true}"
  api POST auth/kubernetes/role/credbroker "{\"bound_service_account_names\":$(text "$BROKER_ACCOUNT"),\"bound_service_account_namespaces\":$(text "$BROKER_NAMESPACE"),\"audience\":$(text "$BROKER_AUDIENCE"),$(granted)}" >/dev/null
}

step_jwt() {
  : "${JWT_ISSUER:?}" "${JWT_AUDIENCE:?}" "${JWT_SUBJECT:?}"
  mount sys/auth/jwt jwt
  api POST auth/jwt/config "{\"oidc_discovery_url\":$(text "$JWT_ISSUER"),\"oidc_discovery_ca_pem\":$(text "$(cat "${JWT_CA_FILE:-/dev/null}")")}"
  api POST auth/jwt/role/credbroker "{\"role_type\":\"jwt\",\"user_claim\":\"sub\",\"bound_audiences\":$(text "$JWT_AUDIENCE"),\"bound_subject\":$(text "$JWT_SUBJECT"),$(granted)}"
}

step_approle() {
  mount sys/auth/approle approle
  api POST auth/approle/role/credbroker "{\"secret_id_ttl\":\"1h\",\"secret_id_num_uses\":0,$(granted)}"
}

[ $# -gt 0 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
for step in "$@"; do
  declare -F "step_$step" >/dev/null || { echo "prepare.sh: there is no step $step" >&2; exit 2; }
done
for step in "$@"; do
  "step_$step"
  echo "prepare.sh: $step is prepared" >&2
done
