-- The part of kong.* that a proxy's plugins and functions call. Shapes and phases are as in Kong 3.9's PDK.

local uri = require "kongtest.uri"

local _M = {}

local function logger(level)
  return function(...)
    ngx.log(level, "[kong] ", ...)
  end
end

local function set_header(name, value)
  if type(name) ~= "string" or (type(value) ~= "string" and type(value) ~= "number" and type(value) ~= "boolean" and type(value) ~= "table") then
    error("invalid header " .. tostring(name) .. ": got " .. type(value), 3)
  end
  if name:lower() == "host" then
    ngx.var.upstream_host = value
  end
  ngx.req.set_header(name, type(value) == "table" and value or tostring(value))
end

local function ordered_args(args)
  local out = {}
  for name, value in pairs(args) do
    out[#out + 1] = ngx.encode_args({ [name] = value })
  end
  table.sort(out)
  return table.concat(out, "&")
end

local client = {
  get_consumer = function() return ngx.ctx.authenticated_consumer end,
  get_credential = function() return ngx.ctx.authenticated_credential end,
  authenticate = function(consumer, credential)
    ngx.ctx.authenticated_consumer, ngx.ctx.authenticated_credential = consumer, credential
  end,
  get_ip = function() return ngx.var.remote_addr end,
}

local request = {
  get_method = function() return ngx.req.get_method() end,
  get_path = function() return uri.normalize((ngx.var.request_uri:gsub("%?.*$", ""))) end,
  get_header = function(name)
    local value = ngx.req.get_headers()[name]
    return type(value) == "table" and value[1] or value
  end,
  get_headers = function() return ngx.req.get_headers() end,
  get_query = function() return ngx.req.get_uri_args() end,
  get_query_arg = function(name)
    local value = ngx.req.get_uri_args()[name]
    return type(value) == "table" and value[1] or value
  end,
  get_raw_query = function() return ngx.var.args or "" end,
}

local service_request = {
  set_header = set_header,
  set_headers = function(headers)
    for name, value in pairs(headers) do
      set_header(name, value)
    end
  end,
  clear_header = function(name) ngx.req.clear_header(name) end,
  set_path = function(path)
    if type(path) ~= "string" or path:sub(1, 1) ~= "/" then
      error("path must start with /", 2)
    end
    ngx.var.upstream_uri = uri.escape(path)
  end,
  set_raw_query = function(query) ngx.req.set_uri_args(query) end,
  set_query = function(args) ngx.req.set_uri_args(ordered_args(args)) end,
  set_scheme = function(scheme)
    if scheme ~= "http" and scheme ~= "https" then
      error("invalid scheme: " .. tostring(scheme), 2)
    end
    ngx.var.upstream_scheme = scheme
  end,
}

local function exit(status, body, headers)
  if ngx.headers_sent then
    error("headers have already been sent", 2)
  end
  ngx.status = status
  for name, value in pairs(headers or {}) do
    ngx.header[name] = value
  end
  if type(body) == "table" then
    ngx.header["Content-Type"] = "application/json; charset=utf-8"
    body = require("cjson.safe").encode(body)
  end
  ngx.header["Content-Length"] = body and #body or 0
  ngx.ctx.delayed_exit = true
  if body and ngx.req.get_method() ~= "HEAD" then
    ngx.print(body)
  end
  return ngx.exit(status)
end

local response = {
  exit = exit,
  error = function(status, message) return exit(status, { message = message }) end,
  get_status = function() return ngx.status end,
  get_header = function(name)
    local value = ngx.header[name]
    return type(value) == "table" and value[1] or value
  end,
  set_header = function(name, value) ngx.header[name] = value end,
  clear_header = function(name) ngx.header[name] = nil end,
}

-- serialize is what log plugins write: what Kong's has of a request, and what plugins added.
local function serialize()
  local consumer = ngx.ctx.authenticated_consumer
  local entry = {
    request = { id = ngx.var.kong_request_id, method = ngx.req.get_method(), uri = ngx.var.request_uri },
    response = { status = ngx.status },
    upstream_uri = ngx.var.upstream_uri,
    consumer = consumer and { id = consumer.id, username = consumer.username },
    latencies = { request = math.floor(tonumber(ngx.var.request_time) * 1000) },
  }
  for key, value in pairs(ngx.ctx.serialize_values or {}) do
    entry[key] = value
  end
  return entry
end

local log = setmetatable({
  err = logger(ngx.ERR), warn = logger(ngx.WARN), notice = logger(ngx.NOTICE), info = logger(ngx.INFO), debug = logger(ngx.DEBUG),
  crit = logger(ngx.CRIT), alert = logger(ngx.ALERT),
  serialize = serialize,
  set_serialize_value = function(key, value)
    ngx.ctx.serialize_values = ngx.ctx.serialize_values or {}
    ngx.ctx.serialize_values[key] = value
  end,
}, { __call = function(_, ...) ngx.log(ngx.NOTICE, "[kong] ", ...) end })

-- kong.ctx.shared is one request's; kong.ctx.plugin is one plugin's on one request.
local ctx = setmetatable({}, { __index = function(_, key)
  local all = ngx.ctx
  if key == "shared" then
    all.shared = all.shared or {}
    return all.shared
  end
  all.plugins = all.plugins or {}
  local name = all.plugin_name or "core"
  all.plugins[name] = all.plugins[name] or {}
  return all.plugins[name]
end })

-- vault resolves references to the environment, as {vault://env/NAME}.
local vault = {
  get = function(reference)
    local name = reference:match("^{vault://env/([%w-]+)}$")
    local value = name and os.getenv((name:upper():gsub("-", "_")))
    if not value then
      return nil, "unable to load value of " .. reference
    end
    return value
  end,
}

function _M.new()
  return {
    version = "3.9.3", db = { acls = {} }, client = client, request = request, response = response, log = log, ctx = ctx, vault = vault,
    service = {
      request = service_request,
      response = { get_header = response.get_header, get_status = response.get_status },
      set_target = function(host, port)
        local target = ngx.ctx.balancer_data
        target.host, target.port = host, port
      end,
    },
    router = {
      get_service = function() return ngx.ctx.service end,
      get_route = function() return ngx.ctx.route end,
    },
  }
end

return _M
