-- credential-broker-presigned: for a route of its own, where nothing passes but URLs that the broker has presigned for the host that clients
-- see. The store verifies the signature; here is refused what a signature doesn't say. It needs the modules of credential-broker beside it, and
-- neither a consumer nor the broker. docs/kong.md.

local refusal = require "kong.plugins.credential-broker.refusal"
local request = require "kong.plugins.credential-broker.request"
local sigv4 = require "kong.plugins.credential-broker.sigv4"
local upstream = require "kong.plugins.credential-broker.upstream"

local kong, ngx = kong, ngx
local find, gmatch, match, sub = string.find, string.gmatch, string.match, string.sub
local date, ipairs, pairs, tonumber, type = os.date, ipairs, pairs, tonumber, type

local Handler = {
  VERSION = "0.1.0",
  PRIORITY = 700, -- as credential-broker's: what is looked at is final
}

-- What authenticates a presigned URL: each once, in this spelling. Keys that last have no token, so theirs don't pass.
local PARTS = { "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Security-Token", "X-Amz-Signature", "X-Amz-SignedHeaders" }
local PART = {}
for _, name in ipairs(PARTS) do
  PART[name] = true
end

local MAX_AHEAD = 300

local function fault(status, code, message)
  return nil, { status = status, code = code, message = message }
end

local NOT_PRESIGNED = "This is no URL that was presigned with credentials that end."

-- parts returns the parameters that authenticate, by name, or nil and a fault.
local function parts(parameters)
  local found = {}
  for _, parameter in ipairs(parameters) do
    local name, value = parameter[1], parameter[2]
    if PART[name] and not found[name] and value ~= "" then
      found[name] = value
    elseif request.AUTHENTICATES[request.folded(name)] then
      return fault(403, "AccessDenied", NOT_PRESIGNED)
    end
  end
  for _, name in ipairs(PARTS) do
    if not found[name] then
      return fault(403, "AccessDenied", NOT_PRESIGNED)
    end
  end
  return found
end

-- good says whether the URL is one that is good now, and for no longer than it may be; or returns nil and a fault.
local function good(found, max_expires)
  local expires = match(found["X-Amz-Expires"], "^[1-9]%d?%d?%d?%d?%d?$") and tonumber(found["X-Amz-Expires"])
  local at, signature = found["X-Amz-Date"], found["X-Amz-Signature"]
  local whole = found["X-Amz-Algorithm"] == sigv4.ALGORITHM and #signature == 64 and not find(signature, "[^0-9a-f]") and
    #at == 16 and match(at, "^%d+T%d+Z$") and expires
  if not whole then
    return fault(403, "AccessDenied", NOT_PRESIGNED)
  end
  if expires > max_expires then
    return fault(403, "AccessDenied", "The URL is good for too long.")
  end
  local now = ngx.time()
  -- In this form earlier is less.
  if at < date("!%Y%m%dT%H%M%SZ", now - expires) or at > date("!%Y%m%dT%H%M%SZ", now + MAX_AHEAD) then
    return fault(403, "AccessDenied", "Request has expired")
  end
  return true
end

-- clear takes away the headers that could speak for the client. What would change the request and wasn't signed is refused: stores obey
-- x-amz-copy-source, signed or not.
local function clear(all, signed_headers)
  local signed = {}
  for name in gmatch(signed_headers, "[^;]+") do
    signed[name] = true
  end
  if not signed.host then
    return fault(403, "AccessDenied", NOT_PRESIGNED)
  end
  for name, value in pairs(all) do
    local plain = request.folded(name)
    if plain == "authorization" then
      return fault(400, "InvalidArgument", "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter should be specified")
    elseif sub(plain, 1, 4) == "xamz" then
      if not signed[name] or type(value) == "table" then
        return fault(403, "AccessDenied", "There were headers present in the request which were not signed")
      end
    elseif request.speaks(plain) or plain == "cookie" then
      kong.service.request.clear_header(name)
    end
  end
  return true
end

function Handler:access(conf)
  local all = ngx.req.get_headers(0)
  local raw_query = ngx.var.args or ""
  local path, err = sigv4.path(ngx.var.upstream_uri)
  local parameters
  if path then
    parameters, err = sigv4.parameters(raw_query)
  end
  if not parameters then
    return refusal.send(conf, { status = 400, code = "InvalidURI", message = "In the URL, " .. err .. "." })
  end
  local found, refused = parts(parameters)
  local ok = found
  if ok then
    ok, refused = good(found, conf.max_expires)
  end
  if ok then
    ok, refused = clear(all, found["X-Amz-SignedHeaders"])
  end
  if not ok then
    return refusal.send(conf, refused)
  end
  kong.ctx.plugin.access_key_id = match(found["X-Amz-Credential"], "^[^/]+")
  upstream.choose(conf)
  kong.service.request.set_header("Host", all.host) -- which is signed
  kong.service.request.set_path(path)
  kong.service.request.set_raw_query(sigv4.query(parameters))
end

-- The same as credential-broker's; the broker's audit has presign_url with this access key.
function Handler:log()
  if kong.ctx.plugin.access_key_id then
    kong.log.set_serialize_value("credential_broker", {
      mode = "presigned", access_key_id = kong.ctx.plugin.access_key_id, store_request_id = kong.response.get_header("X-Amz-Request-Id"),
    })
  end
end

return Handler
