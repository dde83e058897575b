-- pre-function, access phase, without any require: asks the broker for credentials in the name of the bearer token that the caller sends,
-- and hands them to the upstream in headers. It runs before Kong has authenticated anybody, so it says nothing of a consumer: the broker
-- verifies the token. docs/kong.md, "Functions".
--
-- Kong's default, untrusted_lua = sandbox, is enough. Set these:
local BROKER_HOST, BROKER_PORT, BROKER_TLS = "broker.example", 8443, true
local ROLE = "reports"
local TIMEOUT = 5000 -- milliseconds, for connecting, sending and reading each
local KEEP_AUTHORIZATION = false -- true if a plugin of Kong's reads the token after this; then let request-transformer remove it

-- What the broker answers, and what the upstream gets of it.
local HEADERS = {
  ["x-credbroker-access-key-id"] = "X-Aws-Access-Key-Id",
  ["x-credbroker-secret-access-key"] = "X-Aws-Secret-Access-Key",
  ["x-credbroker-session-token"] = "X-Aws-Session-Token",
  ["x-credbroker-expires-at"] = "X-Aws-Expiration",
}

local function fail(status, code, retry_after)
  return kong.response.exit(status, { message = "No credentials.", code = code }, { ["Retry-After"] = retry_after, ["Cache-Control"] = "no-store" })
end

-- ask returns the status and the headers of the broker's answer, or nil and what is wrong.
local function ask(token, request_id)
  local sock = ngx.socket.tcp()
  sock:settimeouts(TIMEOUT, TIMEOUT, TIMEOUT)
  local ok, err = sock:connect(BROKER_HOST, BROKER_PORT)
  if not ok then
    return nil, err
  end
  if BROKER_TLS and sock:getreusedtimes() == 0 then
    ok, err = sock:sslhandshake(nil, BROKER_HOST, true)
    if not ok then
      return nil, err
    end
  end
  ok, err = sock:send("POST /v1/credentials/headers HTTP/1.1\r\nHost: " .. BROKER_HOST .. ":" .. BROKER_PORT ..
    "\r\nAuthorization: Bearer " .. token .. "\r\nX-Credbroker-Role: " .. ROLE .. "\r\nX-Kong-Request-Id: " .. request_id ..
    "\r\nContent-Length: 0\r\n\r\n")
  if not ok then
    return nil, err
  end
  local line
  line, err = sock:receive("*l")
  local status = line and tonumber(string.match(line, "^HTTP/1%.[01] (%d%d%d)"))
  if not status then
    return nil, err or "the answer is no HTTP"
  end
  local headers = {}
  for _ = 1, 100 do
    line, err = sock:receive("*l")
    if not line then
      return nil, err
    end
    if line == "" then
      break
    end
    local name, value = string.match(line, "^([%w-]+):%s*(.-)%s*$")
    if name then
      headers[string.lower(name)] = value
    end
  end
  if status == 204 then -- all was read; errors have a body
    sock:setkeepalive(60000, 32)
  else
    sock:close()
  end
  return status, headers
end

return function()
  -- Whatever name a client gives a header that could be taken for one of these, it goes.
  local ours = {}
  for _, name in pairs(HEADERS) do
    ours[string.gsub(string.lower(name), "[-_.]", "")] = true
  end
  for name in pairs(ngx.req.get_headers(0)) do
    if ours[string.gsub(string.lower(name), "[-_.]", "")] then
      kong.service.request.clear_header(name)
    end
  end

  local all = ngx.req.get_headers(0)["authorization"]
  local token = type(all) == "string" and string.match(all, "^[Bb]earer ([%w._~+/=-]+)$")
  if not token or #token > 16384 then
    return fail(401, "unauthenticated")
  end
  local status, answer = ask(token, ngx.var.kong_request_id or ngx.var.request_id or "")
  if not status then
    kong.log.err("credential broker: ", answer)
    return fail(503, "unavailable", 2)
  end
  if status ~= 204 then
    kong.log.warn("credential broker: ", status, " ", answer["x-credbroker-error"], ", request ", answer["x-request-id"])
    local retry = answer["retry-after"]
    return fail((status == 401 or status == 403) and status or 503, answer["x-credbroker-error"], retry)
  end
  for from, to in pairs(HEADERS) do
    local value = answer[from]
    if not value then
      kong.log.err("credential broker: no ", from, " in its answer")
      return fail(503, "unavailable", 2)
    end
    kong.service.request.set_header(to, value)
  end
  if not KEEP_AUTHORIZATION then
    kong.service.request.clear_header("Authorization")
  end
end
