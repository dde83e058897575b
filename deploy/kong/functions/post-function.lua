-- post-function, access phase: asks the broker for credentials of the consumer that Kong has authenticated, by whatever plugin, and hands
-- them to the upstream in headers. It runs after all of Kong's plugins. docs/kong.md, "Functions".
--
-- kong.conf: untrusted_lua_sandbox_requires = resty.http,cjson.safe,resty.sha256,resty.openssl.hmac (or untrusted_lua = lax, where there is
-- that). It can read no file, so it can't prove what it is: it needs the ID and the key of a gateway session (docs/gateway.md) from a
-- vault of Kong's, which somebody else renews. The plugin does that itself. Set these:
local BROKER = "https://broker.example:8444"
local ROLE = "reports"
local KEY_ID, KEY = "{vault://env/credbroker-key-id}", "{vault://env/credbroker-key}"
local TIMEOUT = 5000 -- milliseconds, for connecting, sending and reading each

local cjson = require "cjson.safe"
local hmac = require "resty.openssl.hmac"
local http = require "resty.http"
local sha256 = require "resty.sha256"

-- What the broker answers, and what the upstream gets of it.
local HEADERS = {
  access_key_id = "X-Aws-Access-Key-Id",
  secret_access_key = "X-Aws-Secret-Access-Key",
  session_token = "X-Aws-Session-Token",
  expires_at = "X-Aws-Expiration",
}

-- Credentials by consumer and credential, in this worker's memory: used until they end, never for another.
local kept, count = {}, 0
local MOST, LAST_SECONDS = 1000, 5

local function fail(status, code, retry_after)
  return kong.response.exit(status, { message = "No credentials.", code = code }, { ["Retry-After"] = retry_after, ["Cache-Control"] = "no-store" })
end

local function hex(raw)
  return (string.gsub(raw, ".", function(c) return string.format("%02x", string.byte(c)) end))
end

-- left is how many seconds a time of RFC 3339 in UTC is ahead; nil if it is none.
local function left(text)
  local y, mo, d, h, mi, s = string.match(text, "^(%d+)-(%d+)-(%d+)T(%d+):(%d+):(%d+)Z$")
  if not y then
    return nil
  end
  y, mo = tonumber(y), tonumber(mo)
  if mo <= 2 then
    y, mo = y - 1, mo + 12
  end
  local days = 365 * y + math.floor(y / 4) - math.floor(y / 100) + math.floor(y / 400) + math.floor((153 * (mo - 3) + 2) / 5) + tonumber(d) - 719469
  return ((days * 24 + tonumber(h)) * 60 + tonumber(mi)) * 60 + tonumber(s) - ngx.time()
end

local function ask(consumer, credential)
  local id, key = kong.vault.get(KEY_ID), kong.vault.get(KEY)
  key = key and ngx.decode_base64(key)
  if not id or not key or #key < 32 then
    return nil, "the vault has no key ID and key of 32 bytes in base64"
  end
  local body = cjson.encode { role = ROLE }
  local hash = sha256:new()
  hash:update(body)
  ngx.update_time()
  local at, nonce = string.format("%d", ngx.time()), ngx.var.kong_request_id or ngx.var.request_id
  local headers = {
    ["Content-Type"] = "application/json", ["X-Kong-Request-Id"] = nonce,
    ["X-Credbroker-Gateway-Key-Id"] = id, ["X-Credbroker-Gateway-Timestamp"] = at, ["X-Credbroker-Gateway-Nonce"] = nonce,
  }
  local lines = { "credbroker-gateway/1", id, at, nonce, "POST", "/v1/credentials", "", hex(hash:final()) }
  for _, said in ipairs {
    { "x-consumer-id", consumer.id }, { "x-consumer-custom-id", consumer.custom_id }, { "x-consumer-username", consumer.username },
    { "x-credential-identifier", credential },
  } do
    -- The broker refuses what holds other characters. A role that needs such a name isn't given; others work.
    if said[2] and #said[2] <= 255 and string.find(said[2], "^[A-Za-z0-9._@=+/:-]+$") then
      headers[said[1]] = said[2]
      lines[#lines + 1] = said[1] .. ":" .. said[2]
    end
  end
  headers["X-Credbroker-Gateway-Mac"] = hex(hmac.new(key, "sha256"):final(table.concat(lines, "\n") .. "\n"))
  local client = http.new()
  client:set_timeout(TIMEOUT)
  return client:request_uri(BROKER .. "/v1/credentials", {
    method = "POST", body = body, headers = headers, ssl_verify = true,
  })
end

return function()
  -- Whatever name a client gives a header that could be taken for one of these, it goes.
  local ours = { authorization = true }
  for _, name in pairs(HEADERS) do
    ours[string.gsub(string.lower(name), "[-_.]", "")] = true
  end
  for name in pairs(ngx.req.get_headers(0)) do
    if ours[string.gsub(string.lower(name), "[-_.]", "")] then
      kong.service.request.clear_header(name)
    end
  end

  local consumer, credential = kong.client.get_consumer(), kong.client.get_credential()
  credential = credential and (credential.id or credential.key)
  if not consumer or not credential or kong.request.get_header("X-Anonymous-Consumer") then
    return fail(401, "unauthenticated")
  end
  local name = consumer.id .. "\0" .. credential
  local issued = kept[name]
  if not issued or left(issued.expires_at) <= LAST_SECONDS then
    local answer, err = ask(consumer, credential)
    if not answer then
      kong.log.err("credential broker: ", err)
      return fail(503, "unavailable", 2)
    end
    if answer.status ~= 200 then
      local code = answer.headers["X-Credbroker-Error"]
      kong.log.warn("credential broker: ", answer.status, " ", code, ", request ", answer.headers["X-Request-Id"])
      return fail(answer.status == 403 and 403 or 503, code, answer.headers["Retry-After"])
    end
    issued = cjson.decode(answer.body) or {}
    for from in pairs(HEADERS) do
      if type(issued[from]) ~= "string" or issued[from] == "" then
        kong.log.err("credential broker: no ", from, " in its answer")
        return fail(503, "unavailable", 2)
      end
    end
    if (left(issued.expires_at) or 0) <= LAST_SECONDS then
      kong.log.err("credential broker: its credentials have ended: are the clocks right?")
      return fail(503, "unavailable", 2)
    end
    if not kept[name] then
      if count >= MOST then
        kept, count = {}, 0
      end
      count = count + 1
    end
    kept[name] = issued
  end
  for from, to in pairs(HEADERS) do
    kong.service.request.set_header(to, issued[from])
  end
end
