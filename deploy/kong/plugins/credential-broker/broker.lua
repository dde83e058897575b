-- The broker, as a gateway speaks to it (docs/gateway.md): a session whose key lives an hour at most, and under it a MAC for each call
-- that says for which consumer it is.
--
-- Sessions are the worker's own and live in its memory alone, not in shared memory.

local cjson = require "cjson.safe"
local digest = require "kong.plugins.credential-broker.digest"
local flight = require "kong.plugins.credential-broker.flight"
local http = require "resty.http"
local proof = require "kong.plugins.credential-broker.proof"
local random = require "resty.random"

local concat = table.concat
local format, gsub, match = string.format, string.gsub, string.match
local ipairs, tonumber, type = ipairs, tonumber, type
local ngx = ngx

local _M = {}

-- A session or credential is not used in its last seconds: a request takes time on its way.
_M.LAST_SECONDS = 5

-- How long after a failed renewal the next one is tried, in seconds; and where there is no session at all.
local PAUSE, SHORT_PAUSE = 5, 1

local UNAVAILABLE = {
  status = 503, code = "ServiceUnavailable", retry_after = 2, message = "The credential broker can't be reached. Try again.",
}
_M.UNAVAILABLE = UNAVAILABLE

-- IDENTITY are the headers of a word on a consumer, in the order in which the MAC covers them.
local IDENTITY = { "x-consumer-id", "x-consumer-custom-id", "x-consumer-username", "x-credential-identifier", "x-authenticated-groups" }

-- epoch reads a time of RFC 3339 in UTC, without fractions; nil if it is none.
local function epoch(text)
  local y, mo, d, h, mi, s = match(type(text) == "string" and text or "", "^(%d%d%d%d)%-(%d%d)%-(%d%d)T(%d%d):(%d%d):(%d%d)Z$")
  if not y then
    return nil
  end
  y, mo, d = tonumber(y), tonumber(mo), tonumber(d)
  -- Days from civil, with years that begin in March.
  if mo <= 2 then
    y, mo = y - 1, mo + 12
  end
  local days = 365 * y + math.floor(y / 4) - math.floor(y / 100) + math.floor(y / 400) + math.floor((153 * (mo - 3) + 2) / 5) + d - 719469
  return ((days * 24 + tonumber(h)) * 60 + tonumber(mi)) * 60 + tonumber(s)
end
_M.epoch = epoch

local function post(conf, url, headers, body, credential)
  local client = http.new()
  client:set_timeout(conf.timeout)
  headers["Content-Type"] = "application/json"
  local options = { method = "POST", headers = headers, body = body, ssl_verify = conf.ssl_verify }
  if credential then
    local err = credential(options)
    if err then
      return nil, err
    end
  end
  return client:request_uri(url, options)
end

local sessions = {}
local closed_until = {}

-- A session belongs to the settings that it was opened with: plugins that have them in common share it.
local function session_name(conf)
  return concat({ conf.session_url or "", conf.gateway_role or "", conf.proof, conf.token_file or "", conf.audience or "",
    conf.certificate_file or "", conf.static_key_id or "", conf.static_key or "" }, "\0")
end
_M.session_name = session_name

local function open(conf)
  local answer, err = post(conf, conf.session_url .. "/v1/gateway/sessions", {}, cjson.encode { role = conf.gateway_role },
    function(options) return proof.add(conf, options) end)
  if not answer then
    ngx.log(ngx.ERR, "[credential-broker] no gateway session: ", err)
    return nil, UNAVAILABLE
  end
  local session = cjson.decode(answer.body)
  if answer.status ~= 200 or type(session) ~= "table" then
    ngx.log(ngx.ERR, "[credential-broker] no gateway session: the broker says ", answer.status, " ", answer.headers["X-Credbroker-Error"] or "",
      ", request ", answer.headers["X-Request-Id"] or "unknown")
    return nil, UNAVAILABLE
  end
  local key, ends = ngx.decode_base64(session.key or ""), epoch(session.expires_at)
  if not key or #key < 32 or not ends or not match(session.key_id or "", "^[A-Z2-7]+$") then
    ngx.log(ngx.ERR, "[credential-broker] no gateway session: the broker's answer has no key_id, key and expires_at that can be read")
    return nil, UNAVAILABLE
  end
  local now = ngx.time()
  return { key_id = session.key_id, key = digest.key(key), opened = now, ends = ends, renew = now + (ends - now) / 2 }
end

local function renew(premature, conf, name)
  local old = sessions[name]
  if premature or not old then
    return
  end
  local opened = open(conf)
  if opened then
    sessions[name] = opened
  else
    old.renewing, old.renew = nil, ngx.time() + PAUSE
  end
end

-- session returns the worker's session for these settings, and opens one if there is none. One that is past its middle is renewed in the
-- background.
local function session(conf, name)
  local now = ngx.time()
  local found = sessions[name]
  if found and now < found.ends - _M.LAST_SECONDS then
    if now >= found.renew and not found.renewing then
      found.renewing = true
      if not ngx.timer.at(0, renew, conf, name) then
        found.renewing = nil
      end
    end
    return found
  end
  if conf.proof == "static_key" then
    local key = ngx.decode_base64(conf.static_key)
    if not key or #key < 32 then
      ngx.log(ngx.ERR, "[credential-broker] static_key is not base64 of 32 bytes at least")
      return nil, UNAVAILABLE
    end
    sessions[name] = { key_id = conf.static_key_id, key = digest.key(key), ends = math.huge, renew = math.huge }
    return sessions[name]
  end
  if now < (closed_until[name] or 0) then
    return nil, UNAVAILABLE
  end
  return flight.run("session\0" .. name, conf.timeout / 1000, UNAVAILABLE, function()
    local opened, fault = open(conf)
    sessions[name] = opened
    closed_until[name] = not opened and ngx.time() + SHORT_PAUSE or nil
    return opened, fault
  end)
end

-- Values that the broker takes in identity headers.
local function speakable(value)
  return type(value) == "string" and #value <= 255 and match(value, "^[A-Za-z0-9._@=+/:-]+$") ~= nil
end

-- word returns what is said of an authenticated consumer: {headers = name → value, name = one string for all of it, token}, or nil and what
-- is wrong. A username or custom ID that the broker wouldn't take is left out, so that roles which don't need it work; with groups that
-- would change who somebody is. token is the one that the consumer has shown to Kong, if the broker shall verify it again.
function _M.word(consumer, credential, groups, token)
  local headers = {
    ["x-consumer-id"] = consumer.id,
    ["x-credential-identifier"] = credential.id or credential.key,
  }
  if not speakable(headers["x-consumer-id"]) or not speakable(headers["x-credential-identifier"]) then
    return nil, "the consumer or its credential has no ID that the broker takes"
  end
  headers["x-consumer-custom-id"] = speakable(consumer.custom_id) and consumer.custom_id or nil
  headers["x-consumer-username"] = speakable(consumer.username) and consumer.username or nil
  if groups and #groups > 0 then
    if #groups > 64 then
      return nil, "the consumer is in more than 64 groups"
    end
    local list = {}
    for i, group in ipairs(groups) do
      if not speakable(group) then
        return nil, "the consumer is in a group whose name the broker doesn't take"
      end
      list[i] = group
    end
    table.sort(list)
    headers["x-authenticated-groups"] = concat(list, ",")
  end
  -- No two words have the same name: each part has its length.
  local parts = {}
  for i, header in ipairs(IDENTITY) do
    local value = headers[header] or ""
    parts[i] = #value .. ":" .. value
  end
  parts[#parts + 1] = token and digest.sha256_hex(token)
  return { headers = headers, name = concat(parts), token = token }
end

local function signed(conf, found, path, body, word, request_id)
  ngx.update_time()
  local at = format("%d", ngx.time())
  local nonce = gsub(assert(random.bytes(16, true), "no random bytes"), ".", function(c) return format("%02x", c:byte()) end)
  local headers = {
    ["X-Credbroker-Gateway-Key-Id"] = found.key_id, ["X-Credbroker-Gateway-Timestamp"] = at, ["X-Credbroker-Gateway-Nonce"] = nonce,
    ["X-Kong-Request-Id"] = request_id,
  }
  local lines = { "credbroker-gateway/1", found.key_id, at, nonce, "POST", path, "", digest.sha256_hex(body) }
  for _, header in ipairs(IDENTITY) do
    local value = word.headers[header]
    if value then
      headers[header] = value
      lines[#lines + 1] = header .. ":" .. value
    end
  end
  headers["X-Credbroker-Gateway-Mac"] = digest.hex(digest.mac(found.key, concat(lines, "\n") .. "\n"))
  return post(conf, conf.broker_url .. path, headers, body)
end

-- What a client is told of a refusal, by the broker's status. The code is S3's, so that SDKs know whether to try again.
local function fault(answer)
  local status = answer.status
  local out
  if status == 403 then
    out = { status = 403, code = "AccessDenied", message = "The credential broker gives this consumer no access." }
  elseif status == 429 then
    out = { status = 503, code = "SlowDown", message = "Too many requests for credentials. Try again.", retry_after = 15 }
  elseif status == 400 and answer.headers["X-Credbroker-Error"] == "invalid_s3_request" then
    out = { status = 400, code = "InvalidRequest", message = "The request is none that the credential broker signs: its form, a header or a parameter." }
  elseif status == 501 then
    out = { status = 501, code = "NotImplemented", message = "The credential broker signs no such operation." }
  elseif status == 401 or status >= 502 then
    out = { status = 503, code = "ServiceUnavailable", message = UNAVAILABLE.message, retry_after = 2 }
  else
    out = { status = 502, code = "InternalError", message = "The credential broker and the gateway don't agree." }
  end
  out.retry_after = out.retry_after and (tonumber(answer.headers["Retry-After"]) or out.retry_after)
  out.refused = status == 403
  out.broker = { status = status, body = answer.body, type = answer.headers["Content-Type"] }
  ngx.log(ngx.WARN, "[credential-broker] the broker says ", status, " ", answer.headers["X-Credbroker-Error"] or "", ", request ",
    answer.headers["X-Request-Id"] or "unknown")
  return out
end

-- call asks the gateway listener for something in the name of a consumer, and returns the decoded answer, or nil and a fault: status, code,
-- message, retry_after, refused (the broker has decided), broker (its answer). A session that the broker doesn't know any more, as after
-- its restart, is opened anew, once.
function _M.call(conf, path, arguments, word, request_id)
  local name = session_name(conf)
  arguments.jwt = word.token
  local body = cjson.encode(arguments)
  local answer
  for _ = 1, 2 do
    local found, failed = session(conf, name)
    if not found then
      return nil, failed
    end
    local err
    answer, err = signed(conf, found, path, body, word, request_id)
    if not answer then
      ngx.log(ngx.ERR, "[credential-broker] the broker can't be reached: ", err)
      return nil, UNAVAILABLE
    end
    if answer.status ~= 401 or not found.opened or ngx.time() - found.opened < PAUSE then
      break -- a new one wouldn't help: the clocks differ, or the key is a static one
    end
    if sessions[name] == found then
      sessions[name] = nil
    end
  end
  if answer.status ~= 200 then
    return nil, fault(answer)
  end
  local decoded = cjson.decode(answer.body)
  if type(decoded) ~= "table" then
    ngx.log(ngx.ERR, "[credential-broker] the broker's answer is no JSON object")
    return nil, UNAVAILABLE
  end
  return decoded
end

return _M
