-- The plugin's settings. docs/kong.md has them with their reasons.

local typedefs = require "kong.db.schema.typedefs"

local function string_(description, more)
  local field = { type = "string", len_min = 1, description = description }
  for key, value in pairs(more or {}) do
    field[key] = value
  end
  return field
end

local function flag(description)
  return { type = "boolean", required = true, default = false, description = description }
end

local inject_headers = {
  type = "record",
  required = true,
  description = "Mode inject: the headers that carry the credentials to the upstream.",
  fields = {
    { access_key_id = string_("Header for the access key ID.", { required = true, default = "X-Aws-Access-Key-Id" }) },
    { secret_access_key = string_("Header for the secret access key.", { required = true, default = "X-Aws-Secret-Access-Key" }) },
    { session_token = string_("Header for the session token.", { required = true, default = "X-Aws-Session-Token" }) },
    { expires_at = string_("Header for the end of their life, RFC 3339.", { required = true, default = "X-Aws-Expiration" }) },
  },
}

local config = {
  type = "record",
  fields = {
    { mode = string_("sign: sign here with the consumer's short-lived credentials. sign_remote: have the broker sign each request, so that " ..
      "Kong holds no key of a consumer's. inject: hand the credentials to the upstream in headers.",
      { required = true, default = "sign", one_of = { "sign", "sign_remote", "inject" } }) },
    { broker_url = typedefs.url { required = true, description = "The broker's gateway listener: https://broker.example:8444." } },
    { role = string_("The broker's role that consumers use.", { required = true, match = "^[a-z0-9][a-z0-9_-]*$" }) },
    { ttl = { type = "integer", gt = 0, description = "How long credentials shall live, in seconds; the role's default if absent." } },
    { forward_jwt = flag "Send the token that the jwt plugin has verified along, for the broker to verify it again." },
    { sign_endpoint = typedefs.url { description = "Mode sign_remote: the store's endpoint that is signed for; the broker's own if absent." } },
    { send_groups = { type = "boolean", required = true, default = true, description = "Tell the broker the consumer's acl groups." } },

    { proof = string_("How Kong proves itself. static_key is a key that lasts: for a start, or where nothing else is there.",
      { required = true, default = "token_file", one_of = { "token_file", "gcp", "azure", "certificate", "static_key" } }) },
    { session_url = typedefs.url { description = "The broker's public HTTP listener, where a gateway session is opened." } },
    { gateway_role = string_("The broker's role that lets Kong be a gateway.", { match = "^[a-z0-9][a-z0-9_-]*$" }) },
    { token_file = string_("Proof token_file: a file with a token that the platform keeps fresh; read for each session.") },
    { audience = string_("Proofs gcp and azure: the audience of the token.") },
    { certificate_file = string_("Proof certificate: a PEM file with the chain; read for each session.") },
    { key_file = string_("Proof certificate: a PEM file with the key.") },
    { static_key_id = string_("Proof static_key: the key's ID.", { match = "^[a-z0-9][a-z0-9_-]*$" }) },
    { static_key = string_("Proof static_key: the key, 32 bytes or more in base64.", { referenceable = true, encrypted = true }) },

    { ssl_verify = { type = "boolean", required = true, default = true,
      description = "Verify the broker's certificate, by Kong's lua_ssl_trusted_certificate." } },
    { timeout = { type = "integer", required = true, default = 5000, between = { 100, 60000 },
      description = "For connecting, sending and reading, each, in milliseconds." } },

    { region = string_("The store's region, as it is signed.", { required = true, default = "us-east-1" }) },
    { override_target_host = typedefs.host { description = "Send and sign for this host instead of the service's." } },
    { override_target_port = typedefs.port { description = "Send to this port instead of the service's." } },
    { override_target_protocol = string_("Send by this protocol instead of the service's.", { one_of = { "http", "https" } }) },
    { use_altered_target = flag "If another plugin has chosen a target, send and sign for that one." },
    { sign_query = flag "Put the signature into the query, good for 60 s, instead of headers." },
    { preserve_auth_header = flag "Keep the client's Authorization header, under another name." },
    { preserve_auth_header_key = string_("That name.", { required = true, default = "X-Authorization" }) },
    { return_broker_error = flag "Give clients the broker's error instead of S3's." },
    { inject_headers = inject_headers },
  },
  entity_checks = {
    { conditional = { if_field = "proof", if_match = { ne = "static_key" }, then_field = "session_url", then_match = { required = true } } },
    { conditional = { if_field = "proof", if_match = { ne = "static_key" }, then_field = "gateway_role", then_match = { required = true } } },
    { conditional = { if_field = "proof", if_match = { eq = "token_file" }, then_field = "token_file", then_match = { required = true } } },
    { conditional = { if_field = "proof", if_match = { one_of = { "gcp", "azure" } }, then_field = "audience", then_match = { required = true } } },
    { conditional = { if_field = "proof", if_match = { eq = "certificate" }, then_field = "certificate_file", then_match = { required = true } } },
    { conditional = { if_field = "proof", if_match = { eq = "certificate" }, then_field = "key_file", then_match = { required = true } } },
    { conditional = { if_field = "proof", if_match = { eq = "static_key" }, then_field = "static_key_id", then_match = { required = true } } },
    { conditional = { if_field = "proof", if_match = { eq = "static_key" }, then_field = "static_key", then_match = { required = true } } },
  },
}

return {
  name = "credential-broker",
  fields = {
    { protocols = typedefs.protocols_http },
    { config = config },
  },
}
