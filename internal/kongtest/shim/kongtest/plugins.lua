-- Stand-ins for the plugins that come with Kong: their priorities, what they set and leave, and whom they let through. They do no more
-- than that; a setting that one doesn't know fails the start.

local cjson = require "cjson.safe"
local entities = require "kongtest.entities"
local jwt = require "kongtest.jwt"
local sandbox = require "kongtest.sandbox"

local _M = {}

local function set_or_clear(name, value)
  if value ~= nil then
    kong.service.request.set_header(name, value)
  else
    kong.service.request.clear_header(name)
  end
end

-- authenticated does what Kong's own authentication plugins do to headers.
local function authenticated(consumer, credential, identifier)
  kong.client.authenticate(consumer, credential)
  set_or_clear("X-Consumer-ID", consumer.id)
  set_or_clear("X-Consumer-Custom-ID", consumer.custom_id)
  set_or_clear("X-Consumer-Username", consumer.username)
  set_or_clear("X-Credential-Identifier", identifier)
  set_or_clear("X-Anonymous-Consumer", not credential and true or nil)
end

local function unauthenticated(conf, message)
  if conf.anonymous then
    return authenticated(assert(entities.consumers[conf.anonymous]), nil, nil)
  end
  return kong.response.exit(401, { message = message })
end

_M["key-auth"] = {
  priority = 1250,
  settings = { "key_names", "hide_credentials", "anonymous", "key_in_body" },
  access = function(conf)
    if conf.anonymous and kong.client.get_credential() then
      return
    end
    local query = kong.request.get_query()
    for _, name in ipairs(conf.key_names or { "apikey" }) do
      local value = ngx.req.get_headers()[name] or query[name]
      if type(value) == "table" then
        return kong.response.exit(401, { message = "Duplicate API key found" })
      end
      if value then
        if conf.hide_credentials then
          query[name] = nil
          for key, content in pairs(query) do
            query[key] = content == true and "" or content -- so a+b becomes a+b=
          end
          kong.service.request.set_query(query)
          kong.service.request.clear_header(name)
        end
        local found = entities.key(value)
        if found then
          return authenticated(found.consumer, found.credential, found.credential.id)
        end
        return unauthenticated(conf, "Unauthorized")
      end
    end
    return unauthenticated(conf, "No API key found in request")
  end,
}

_M.jwt = {
  priority = 1450,
  settings = { "claims_to_verify", "key_claim_name", "anonymous", "header_names", "uri_param_names", "maximum_expiration" },
  access = function(conf)
    if conf.anonymous and kong.client.get_credential() then
      return
    end
    local token = (kong.request.get_header("Authorization") or ""):match("^[Bb]earer%s+(%S+)$")
    if not token then
      return unauthenticated(conf, "Unauthorized")
    end
    local claims, credential = jwt.verify(token, conf.key_claim_name or "iss", function(key)
      local found = entities.jwt(key)
      return found and found.credential
    end)
    if not claims then
      return unauthenticated(conf, "Invalid signature")
    end
    for _, name in ipairs(conf.claims_to_verify or {}) do
      local at = claims[name]
      if type(at) ~= "number" or (name == "exp" and at <= ngx.time()) or (name == "nbf" and at > ngx.time()) then
        return unauthenticated(conf, "token expired")
      end
    end
    if (conf.maximum_expiration or 0) > 0 and claims.exp - ngx.time() > conf.maximum_expiration then
      return unauthenticated(conf, "exceeds maximum allowed expiration")
    end
    authenticated(entities.jwt(credential.key).consumer, credential, credential.key)
    kong.ctx.shared.authenticated_jwt_token = token
  end,
}

_M.acl = {
  priority = 950,
  settings = { "allow", "deny", "hide_groups_header" },
  access = function(conf)
    local consumer = kong.client.get_consumer()
    local groups = consumer and entities.groups(consumer.id) or {}
    local function any(list)
      for _, group in ipairs(list or {}) do
        if groups[group] then
          return true
        end
      end
      return false
    end
    if not consumer or (conf.allow and not any(conf.allow)) or any(conf.deny) then
      return kong.response.exit(403, { message = "You cannot consume this service" })
    end
    if not conf.hide_groups_header then
      kong.service.request.set_header("X-Consumer-Groups", table.concat(groups, ", "))
    end
  end,
}

-- Counts in shared memory, whatever the policy is.
_M["rate-limiting"] = {
  priority = 910,
  settings = { "second", "minute", "hour", "policy", "redis", "limit_by", "fault_tolerant", "hide_client_headers" },
  access = function(conf)
    local consumer = kong.client.get_consumer()
    local who = consumer and consumer.id or ngx.var.remote_addr
    for period, seconds in pairs { second = 1, minute = 60, hour = 3600 } do
      if conf[period] then
        local key = who .. "/" .. period .. "/" .. math.floor(ngx.time() / seconds)
        if ngx.shared.kong_rate_limiting:incr(key, 1, 0, seconds) > conf[period] then
          return kong.response.exit(429, { message = "API rate limit exceeded" })
        end
      end
    end
  end,
}

_M["ip-restriction"] = {
  priority = 990,
  settings = { "allow" },
  access = function(conf)
    local ip = ngx.var.remote_addr
    for _, range in ipairs(conf.allow) do
      if range == ip or (range == "127.0.0.0/8" and ip:find("^127%.")) then
        return
      end
    end
    return kong.response.exit(403, { message = "Your IP address is not allowed" })
  end,
}

_M["request-transformer"] = {
  priority = 801,
  settings = { "add", "remove", "replace" },
  access = function(conf)
    for _, name in ipairs(conf.remove and conf.remove.headers or {}) do
      kong.service.request.clear_header(name)
    end
    for _, line in ipairs(conf.add and conf.add.headers or {}) do
      local name, value = line:match("^([^:]+):(.*)$")
      kong.service.request.set_header(name, value)
    end
    if conf.replace and conf.replace.uri then
      kong.service.request.set_path(conf.replace.uri)
    end
  end,
}

_M["file-log"] = {
  priority = 9,
  settings = { "path", "reopen" },
  log = function(conf)
    local file = assert(io.open(conf.path, "a"))
    file:write(cjson.encode(kong.log.serialize()), "\n")
    file:close()
  end,
}

-- Neither touches a request.
_M.prometheus = { priority = 13, settings = { "per_consumer", "status_code_metrics", "latency_metrics", "upstream_health_metrics", "bandwidth_metrics" } }
_M["http-log"] = { priority = 12, settings = { "http_endpoint", "method", "timeout", "keepalive", "queue" } }

-- Functions: compiled once for a worker. One that returns a function is run for that at first, and this runs for requests.
local function functions(priority)
  local compiled = setmetatable({}, { __mode = "k" })
  local function run(phase)
    return function(conf, environment)
      local of = compiled[conf]
      if not of then
        of = {}
        compiled[conf] = of
      end
      if not of[phase] then
        of[phase] = {}
        for i, code in ipairs(conf[phase] or {}) do
          local chunk = assert(loadstring(code, "=" .. phase))
          local result = setfenv(chunk, sandbox.new(environment.sandbox_requires))
          of[phase][i] = result
        end
      end
      for i, chunk in ipairs(of[phase]) do
        local result = chunk()
        if type(result) == "function" then
          of[phase][i] = result
          result()
        end
      end
    end
  end
  return { priority = priority, settings = { "access", "log", "header_filter" }, access = run "access", log = run "log", header_filter = run "header_filter" }
end

_M["pre-function"] = functions(1000000)
_M["post-function"] = functions(-1000)

return _M
