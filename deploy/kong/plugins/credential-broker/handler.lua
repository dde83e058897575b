-- credential-broker: after Kong has authenticated a consumer, its request to an object store is signed with short-lived credentials that
-- the broker gives this consumer. Neither the client nor Kong holds a key that lasts. docs/kong.md.

local broker = require "kong.plugins.credential-broker.broker"
local credentials = require "kong.plugins.credential-broker.credentials"
local refusal = require "kong.plugins.credential-broker.refusal"
local remote = require "kong.plugins.credential-broker.remote"
local request = require "kong.plugins.credential-broker.request"
local sigv4 = require "kong.plugins.credential-broker.sigv4"
local upstream = require "kong.plugins.credential-broker.upstream"

local kong, ngx = kong, ngx
local pairs = pairs

-- acl's module has the groups of consumers; without that plugin there are none.
local has_groups, acl_groups = pcall(require, "kong.plugins.acl.groups")

local Handler = {
  VERSION = "0.1.0",
  -- After acl (950), rate-limiting (910) and request-transformer (801), so that what is signed is allowed and final; before post-function
  -- (-1000).
  PRIORITY = 700,
}

local ANONYMOUS = { status = 401, code = "AccessDenied", message = "No consumer with a credential was authenticated." }
local INTERNAL = { status = 500, code = "InternalError", message = "The gateway can't name this consumer to the credential broker." }
local NO_TRAILER = { status = 501, code = "NotImplemented", message = "A body with a trailer can't go with a signature in the query." }

local function groups_of(consumer)
  if not has_groups or not kong.db.acls then
    return nil
  end
  local groups, err = acl_groups.get_consumer_groups(consumer.id)
  if not groups then
    return nil, err
  end
  return groups
end

-- Words by Kong's own credentials, which are the same tables until they change.
local words = setmetatable({}, { __mode = "k" })

-- word is what the broker is told of the consumer: Kong's own knowledge, not the request's headers.
local function word(conf, all)
  local consumer, credential = kong.client.get_consumer(), kong.client.get_credential()
  if not consumer or not credential or all["x-anonymous-consumer"] then
    return nil, ANONYMOUS
  end
  local groups, err
  if conf.send_groups then
    groups, err = groups_of(consumer)
  end
  local token = conf.forward_jwt and kong.ctx.shared.authenticated_jwt_token or nil
  local known = words[credential]
  if known and not err and known.consumer == consumer and known.groups == groups and known.said.token == token then
    return known.said
  end
  local said
  if not err then
    said, err = broker.word(consumer, credential, groups, token)
  end
  if err then
    kong.log.err("consumer ", consumer.id, ": ", err)
    return nil, INTERNAL
  end
  words[credential] = { consumer = consumer, groups = groups, said = said }
  return said
end

-- The headers that a plugin's settings name are its own: the client's go.
local own_headers = setmetatable({}, { __mode = "k" })

local function own(conf)
  local names = own_headers[conf]
  if not names then
    names = {}
    if conf.mode == "inject" then
      for _, name in pairs(conf.inject_headers) do
        names[request.folded(name)] = true
      end
    end
    if conf.preserve_auth_header then
      names[request.folded(conf.preserve_auth_header_key)] = true
    end
    own_headers[conf] = names
  end
  return names
end

local last, stamp

local function timestamp()
  local now = ngx.time()
  if now ~= last then
    last, stamp = now, os.date("!%Y%m%dT%H%M%SZ", now)
  end
  return stamp
end

-- clear takes away what may not reach the store, and puts what is there in several lines into one.
local function clear(conf, headers, all)
  local kept = conf.preserve_auth_header and all["authorization"]
  for i = 1, #headers.remove do
    kong.service.request.clear_header(headers.remove[i])
  end
  if headers.join then
    for name, value in pairs(headers.join) do
      kong.service.request.set_header(name, value)
    end
  end
  if kept then
    kong.service.request.set_header(conf.preserve_auth_header_key, kept)
  end
end

local function sign(conf, credential, path, parameters, headers)
  local set = kong.service.request.set_header
  local signed = headers.signed
  local at = timestamp()
  local r = {
    method = kong.request.get_method(), path = path, headers = signed, payload = headers.payload, at = at, region = conf.region, service = "s3",
  }
  signed[#signed + 1] = { "host", upstream.choose(conf) }
  signed[#signed + 1] = { "x-amz-content-sha256", headers.payload }
  set("X-Amz-Content-Sha256", headers.payload)
  kong.service.request.set_path(path)
  if conf.sign_query then
    r.parameters, r.expires = parameters, 60
    kong.service.request.set_raw_query(sigv4.presigned(credential, r))
    return
  end
  signed[#signed + 1] = { "x-amz-date", at }
  signed[#signed + 1] = { "x-amz-security-token", credential.session_token }
  r.query = sigv4.query(parameters)
  set("X-Amz-Date", at)
  set("X-Amz-Security-Token", credential.session_token)
  set("Authorization", sigv4.authorization(credential, r))
  kong.service.request.set_raw_query(r.query)
end

local function inject(conf, credential, path, parameters)
  upstream.choose(conf)
  kong.service.request.set_path(path)
  kong.service.request.set_raw_query(sigv4.query(parameters))
  for field, name in pairs(conf.inject_headers) do
    kong.service.request.set_header(name, credential[field])
  end
end

function Handler:access(conf)
  local all = ngx.req.get_headers(0)
  local said, fault = word(conf, all)
  if not said then
    return refusal.send(conf, fault)
  end

  -- What will be sent, after all rewriting: this is authorised, signed and put back.
  local path, parameters = request.target(ngx.var.upstream_uri, ngx.var.args or "")
  if not path then
    return refusal.send(conf, parameters)
  end
  local headers
  headers, fault = request.headers(all, own(conf))
  if not headers then
    return refusal.send(conf, fault)
  end
  if conf.sign_query and headers.payload == request.TRAILER then
    return refusal.send(conf, NO_TRAILER)
  end

  local credential
  if conf.mode == "sign_remote" then
    upstream.choose(conf)
    clear(conf, headers, all)
    credential, fault = remote.sign(conf, said, path, parameters, headers, all, ngx.var.kong_request_id)
  else
    credential, fault = credentials.get(conf, said, ngx.var.kong_request_id)
  end
  if not credential then
    return refusal.send(conf, fault)
  end
  kong.ctx.plugin.credential = credential
  if conf.mode == "sign_remote" then
    return
  end

  clear(conf, headers, all)
  if conf.mode == "inject" then
    inject(conf, credential, path, parameters)
  else
    sign(conf, credential, path, parameters, headers)
  end
end

-- One pipeline of IDs: the broker's audit and the store's log have these too.
function Handler:log(conf)
  local credential = kong.ctx.plugin.credential
  if not credential then
    return
  end
  kong.log.set_serialize_value("credential_broker", {
    mode = conf.mode, role = conf.role, access_key_id = credential.access_key_id, expires_at = credential.expires_at,
    broker_request_id = credential.request_id, store_request_id = kong.response.get_header("X-Amz-Request-Id"),
  })
end

return Handler
