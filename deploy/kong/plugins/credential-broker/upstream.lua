-- Where a request goes: the host that is signed is the host that is sent, and the one that Kong connects to is chosen by nobody else.

local _M = {}

local DEFAULT_PORT = { http = 80, https = 443 }

-- choose sets the upstream's protocol, host and port by the plugin's settings, and returns the value of Host.
function _M.choose(conf)
  local service = kong.router.get_service()
  local target = ngx.ctx.balancer_data or {}
  local altered = target.host ~= nil and (target.host ~= service.host or target.port ~= service.port)

  local host = conf.override_target_host or service.host
  local port = conf.override_target_port or service.port
  if altered and conf.use_altered_target then
    host, port = target.host, target.port
  elseif target.host ~= host or target.port ~= port then
    kong.service.set_target(host, port)
  end
  if conf.override_target_protocol then
    kong.service.request.set_scheme(conf.override_target_protocol)
  end

  local value = ngx.var.upstream_host -- the route's preserve_host, or another plugin's choice
  if not value or value == "" or conf.override_target_host then
    value = host
    if port ~= DEFAULT_PORT[ngx.var.upstream_scheme] then
      value = host .. ":" .. port
    end
  end
  kong.service.request.set_header("Host", value)
  return value
end

return _M
