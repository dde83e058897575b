-- pre-function, access phase, with resty.http: as pre-function.lua, but it reads JSON, so that a role's narrowing policy can be sent too. It
-- runs before Kong has authenticated anybody, so it says nothing of a consumer: the broker verifies the token. docs/kong.md, "Functions".
--
-- kong.conf: untrusted_lua_sandbox_requires = resty.http,cjson.safe (or untrusted_lua = lax, where there is that). Set these:
local BROKER = "https://broker.example:8443"
local ROLE = "reports"
local POLICY = nil -- an IAM policy as text, which narrows what the role gives
local TIMEOUT = 5000 -- milliseconds, for connecting, sending and reading each
local KEEP_AUTHORIZATION = false -- true if a plugin of Kong's reads the token after this; then let request-transformer remove it

local cjson = require "cjson.safe"
local http = require "resty.http"

-- What the broker answers, and what the upstream gets of it.
local HEADERS = {
  access_key_id = "X-Aws-Access-Key-Id",
  secret_access_key = "X-Aws-Secret-Access-Key",
  session_token = "X-Aws-Session-Token",
  expires_at = "X-Aws-Expiration",
}

local function fail(status, code, retry_after)
  return kong.response.exit(status, { message = "No credentials.", code = code }, { ["Retry-After"] = retry_after, ["Cache-Control"] = "no-store" })
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
  local client = http.new()
  client:set_timeout(TIMEOUT)
  local answer, err = client:request_uri(BROKER .. "/v1/credentials", {
    method = "POST", body = cjson.encode { role = ROLE, policy = POLICY }, ssl_verify = true,
    headers = {
      ["Authorization"] = "Bearer " .. token, ["Content-Type"] = "application/json",
      ["X-Kong-Request-Id"] = ngx.var.kong_request_id or ngx.var.request_id,
    },
  })
  if not answer then
    kong.log.err("credential broker: ", err)
    return fail(503, "unavailable", 2)
  end
  if answer.status ~= 200 then
    local code = answer.headers["X-Credbroker-Error"]
    kong.log.warn("credential broker: ", answer.status, " ", code, ", request ", answer.headers["X-Request-Id"])
    return fail((answer.status == 401 or answer.status == 403) and answer.status or 503, code, answer.headers["Retry-After"])
  end
  local issued = cjson.decode(answer.body)
  for from, to in pairs(HEADERS) do
    local value = issued and issued[from]
    if type(value) ~= "string" or value == "" then
      kong.log.err("credential broker: no ", from, " in its answer")
      return fail(503, "unavailable", 2)
    end
    kong.service.request.set_header(to, value)
  end
  if not KEEP_AUTHORIZATION then
    kong.service.request.clear_header("Authorization")
  end
end
