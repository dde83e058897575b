-- A small Kong: routes, services and plugins of a declarative configuration, run in Kong's phases and by Kong's priorities. Plugins and
-- functions run as they are shipped; only what is around them is made here.

local cjson = require "cjson.safe"
local entities = require "kongtest.entities"
local schema = require "kongtest.schema"
local stand_ins = require "kongtest.plugins"
local uri = require "kongtest.uri"

local _M = {}

local environment, routes

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

-- compile returns {name, priority, handler, conf} of one plugin of the configuration.
local function compile(plugin)
  local name, conf = plugin.name, plugin.config or {}
  local stand_in = stand_ins[name]
  if stand_in then
    local known = {}
    for _, setting in ipairs(stand_in.settings) do
      known[setting] = true
    end
    for setting in pairs(conf) do
      assert(known[setting], "plugin " .. name .. ": the stand-in has no setting " .. setting)
    end
    return { name = name, priority = stand_in.priority, conf = conf, handler = stand_in, plain = true }
  end
  local checked, faults = schema.check(require("kong.plugins." .. name .. ".schema"), conf)
  assert(checked, "plugin " .. name .. ":\n" .. tostring(faults))
  for field, value in pairs(checked) do
    if type(value) == "string" and value:find("^{vault://") then
      checked[field] = assert(kong.vault.get(value))
    end
  end
  local handler = require("kong.plugins." .. name .. ".handler")
  return { name = name, priority = handler.PRIORITY, conf = checked, handler = handler }
end

local function chain(...)
  local by_name = {}
  for _, list in ipairs { ... } do -- from the global to the most specific: that wins
    for _, plugin in ipairs(list) do
      if plugin.enabled ~= false then
        by_name[plugin.name] = plugin
      end
    end
  end
  local plugins = {}
  for _, plugin in pairs(by_name) do
    plugins[#plugins + 1] = compile(plugin)
  end
  table.sort(plugins, function(a, b) return a.priority > b.priority end)
  return plugins
end

local function service_of(s)
  local url = s.url and { s.url:match("^(https?)://([^:/]+):?(%d*)(.*)$") } or {}
  local protocol = s.protocol or url[1] or "http"
  return {
    id = s.id or entities.id_of("service " .. s.name), name = s.name, protocol = protocol, host = s.host or url[2],
    port = s.port or tonumber(url[3]) or (protocol == "https" and 443 or 80), path = s.path or url[4] or "",
  }
end

-- init reads {config = declarative configuration, sandbox_requires = names} from a JSON file. It runs once, before workers are made.
function _M.init(path)
  _G.kong = require("kongtest.pdk").new()
  environment = assert(cjson.decode(read(path)))
  local config = environment.config
  entities.load(config)
  routes = {}
  for _, s in ipairs(config.services or {}) do
    local service = service_of(s)
    for _, r in ipairs(s.routes or {}) do
      local plugins = chain(config.plugins or {}, s.plugins or {}, r.plugins or {})
      for _, prefix in ipairs(r.paths or { "/" }) do
        routes[#routes + 1] = {
          prefix = prefix, strip = r.strip_path ~= false, preserve_host = r.preserve_host == true, hosts = r.hosts, service = service, plugins = plugins,
          route = { id = r.id or entities.id_of("route " .. r.name), name = r.name, paths = r.paths },
        }
      end
    end
  end
  table.sort(routes, function(a, b) return #a.prefix > #b.prefix end)
end

local function host_matches(hosts, host)
  if not hosts then
    return true
  end
  for _, pattern in ipairs(hosts) do
    if pattern == host or (pattern:sub(1, 2) == "*." and host:sub(-#pattern + 1) == pattern:sub(2)) then
      return true
    end
  end
  return false
end

local function run(phase)
  local all = ngx.ctx
  for _, plugin in ipairs(all.chain or {}) do
    local handle = plugin.handler[phase]
    if handle then
      all.plugin_name = plugin.name
      if plugin.plain then
        handle(plugin.conf, environment)
      else
        handle(plugin.handler, plugin.conf)
      end
    end
  end
  all.plugin_name = nil
end

function _M.access()
  local path = uri.normalize((ngx.var.request_uri:gsub("%?.*$", "")))
  local found
  for _, r in ipairs(routes) do
    if path:sub(1, #r.prefix) == r.prefix and host_matches(r.hosts, ngx.var.host) then
      found = r
      break
    end
  end
  if not found then
    return kong.response.exit(404, { message = "no Route matched with those values" })
  end
  local rest = found.strip and path:sub(#found.prefix + 1) or path
  local base = found.service.path:gsub("/$", "")
  if rest:sub(1, 1) ~= "/" then
    rest = "/" .. rest
  end
  local all = ngx.ctx
  all.route, all.service, all.chain = found.route, found.service, found.plugins
  all.balancer_data = { host = found.service.host, port = found.service.port }
  local var = ngx.var
  var.upstream_scheme = found.service.protocol
  var.upstream_uri = uri.escape(base .. rest)
  var.upstream_host = found.preserve_host and var.http_host or ""

  run("access")

  local target = all.balancer_data
  if var.upstream_host == "" then
    var.upstream_host = target.host .. ":" .. target.port
  end
  if var.is_args == "?" or var.request_uri:sub(-1) == "?" then
    var.upstream_uri = var.upstream_uri .. "?" .. (var.args or "")
  end
end

function _M.balancer()
  local target = ngx.ctx.balancer_data
  local ok, err = require("ngx.balancer").set_current_peer(target.host == "localhost" and "127.0.0.1" or target.host, target.port)
  if not ok then
    ngx.log(ngx.ERR, "balancer: ", err)
    return ngx.exit(500)
  end
end

function _M.header_filter()
  run("header_filter")
end

function _M.log()
  run("log")
end

return _M
