-- Credentials of consumers, kept in the worker's memory until they end.
--
-- An entry belongs to one broker, role, proof of Kong's and word on a consumer, and is used for no other. It is renewed in the background
-- well before its end, by a request that has been authenticated; if that fails, it is used until it ends, and not a second longer. If the
-- broker says that the consumer has no access any more, it is dropped at once.

local broker = require "kong.plugins.credential-broker.broker"
local flight = require "kong.plugins.credential-broker.flight"
local lrucache = require "resty.lrucache"

local ngx, setmetatable, type = ngx, setmetatable, type

local _M = {}

-- As many consumers a worker remembers, at about 2 KB each.
local ENTRIES = 10000
local PAUSE = 5

local entries = lrucache.new(ENTRIES)

-- Who was refused is told so again for a second without asking: a consumer without access is no burden to the broker.
local refusals = lrucache.new(1000)

-- What a plugin's settings make different, by the settings.
local prefixes = setmetatable({}, { __mode = "k" })

local function prefix(conf)
  local made = table.concat({ conf.broker_url, conf.role, conf.ttl or "", broker.session_name(conf), "" }, "\0")
  prefixes[conf] = made
  return made
end

local function text(value)
  return type(value) == "string" and value ~= "" and not value:find("[^\33-\126]")
end

local function fetch(conf, word, request_id)
  local answer, fault = broker.call(conf, "/v1/credentials", { role = conf.role, ttl_seconds = conf.ttl }, word, request_id)
  if not answer then
    return nil, fault
  end
  local ends, now = broker.epoch(answer.expires_at), ngx.time()
  if not ends or not text(answer.access_key_id) or not text(answer.secret_access_key) or not text(answer.session_token) then
    ngx.log(ngx.ERR, "[credential-broker] the broker's answer is no credential")
    return nil, broker.UNAVAILABLE
  end
  if ends <= now + broker.LAST_SECONDS then
    ngx.log(ngx.ERR, "[credential-broker] the broker's credential ends at ", answer.expires_at, ": are the clocks right?")
    return nil, broker.UNAVAILABLE
  end
  return {
    access_key_id = answer.access_key_id, secret_access_key = answer.secret_access_key, session_token = answer.session_token,
    expires_at = answer.expires_at, ends = ends, request_id = answer.request_id,
    -- In the last quarter of its life: early enough for several tries, late enough to be rare. The broker may give what it has at hand,
    -- which can be in its last quarter already; that is asked about again a little later.
    renew = math.max(now + math.min(PAUSE, (ends - now) / 4), ends - math.max(broker.LAST_SECONDS * 2, (ends - now) / 4)),
  }
end

local function keep(name, credential)
  entries:set(name, credential, math.max(1, credential.ends - ngx.time()))
end

local function renew(premature, conf, name, word, request_id)
  local old = entries:get(name)
  if premature or not old then
    return
  end
  local credential, fault = fetch(conf, word, request_id)
  if credential then
    keep(name, credential)
  elseif fault.refused then
    entries:delete(name)
  else
    old.renewing, old.renew = nil, ngx.time() + PAUSE
  end
end

-- get returns {access_key_id, secret_access_key, session_token, expires_at, ends, request_id} for a consumer, or nil and a fault.
function _M.get(conf, word, request_id)
  local name = (prefixes[conf] or prefix(conf)) .. word.name
  local now = ngx.time()
  local found = entries:get(name)
  if found and now < found.ends - broker.LAST_SECONDS then
    if now >= found.renew and not found.renewing then
      found.renewing = true
      if not ngx.timer.at(0, renew, conf, name, word, request_id) then
        found.renewing = nil
      end
    end
    return found
  end
  local refused = refusals:get(name)
  if refused then
    return nil, refused
  end
  return flight.run("credentials\0" .. name, conf.timeout / 1000 * 2, broker.UNAVAILABLE, function()
    local credential, fault = fetch(conf, word, request_id)
    if credential then
      keep(name, credential)
    elseif fault.refused then
      refusals:set(name, fault, 1)
    end
    return credential, fault
  end)
end

return _M
