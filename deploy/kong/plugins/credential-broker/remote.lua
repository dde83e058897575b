-- Mode sign_remote: the broker signs each request, and no key of a consumer's is in Kong at all. What the broker answers is sent as it is:
-- host, path, query and headers.

local broker = require "kong.plugins.credential-broker.broker"
local sigv4 = require "kong.plugins.credential-broker.sigv4"

local find, match, sub = string.find, string.match, string.sub
local ipairs, pairs, type = ipairs, pairs, type

local _M = {}

-- Sent along to be signed, besides what is signed anyway: headers that change what the store does or keeps.
local ALSO = { "cache-control", "content-disposition", "content-encoding", "content-language", "expires", "if-match", "if-none-match",
  "if-modified-since", "if-unmodified-since" }

-- A signature is good for as many seconds; whoever sees it can send the request again until then.
local WINDOW = 60

local TWICE = { status = 400, code = "InvalidRequest", message = "A parameter of the query or a header is there more than once." }
local DIFFERENT = { status = 502, code = "InternalError", message = "The credential broker has signed another request." }

-- question returns what the broker is asked to sign, or nil and a fault.
local function question(conf, method, path, parameters, headers, all)
  local plain = sigv4.unescape(path)
  local query, given = {}, {}
  for _, parameter in ipairs(parameters) do
    if query[parameter[1]] then
      return nil, TWICE
    end
    query[parameter[1]] = parameter[2]
  end
  for _, header in ipairs(headers.signed) do
    given[header[1]] = sigv4.value(header[2])
  end
  for _, name in ipairs(ALSO) do
    if type(all[name]) == "table" then
      return nil, TWICE
    end
    given[name] = all[name] and sigv4.value(all[name])
  end
  local slash = find(plain, "/", 2, true)
  return {
    role = conf.role, expires_in_seconds = WINDOW,
    requests = { {
      method = method, bucket = sub(plain, 2, slash and slash - 1), key = slash and sub(plain, slash + 1) or "", query = query, headers = given,
      payload_hash = headers.payload, endpoint = conf.sign_endpoint,
    } },
  }
end

-- sign has the broker sign a request, and puts what it answers into the request to the upstream. It returns who signed: {access_key_id,
-- expires_at, request_id}, or nil and a fault. path is escaped; headers are as request.headers has them, all is what came.
function _M.sign(conf, said, path, parameters, headers, all, request_id)
  local asked, fault = question(conf, kong.request.get_method(), path, parameters, headers, all)
  if not asked then
    return nil, fault
  end
  local answer
  answer, fault = broker.call(conf, conf.sign_query and "/v1/presign" or "/v1/sign", asked, said, request_id)
  if not answer then
    return nil, fault
  end
  local signed = type(answer.signed) == "table" and answer.signed[1]
  -- The path and the method are what was authorised; that they come back is looked at, not believed. A bucket's may end in a slash.
  local same = type(signed) == "table" and (signed.path == path or (asked.requests[1].key == "" and signed.path == path .. "/"))
  if not same or signed.method ~= kong.request.get_method() or type(signed.query) ~= "string" or
    type(signed.headers) ~= "table" or not match(signed.host or "", "^[A-Za-z0-9.:%[%]-]+$") then
    kong.log.err("the broker's answer is no signature of this request")
    return nil, DIFFERENT
  end
  local set = kong.service.request.set_header
  local given = asked.requests[1].headers
  for name, value in pairs(signed.headers) do
    if value ~= given[name] then -- else it stays as the client sent it, with its spaces
      set(name, value)
    end
  end
  set("Host", signed.host)
  kong.service.request.set_path(signed.path)
  kong.service.request.set_raw_query(signed.query)
  return { access_key_id = answer.access_key_id, expires_at = answer.expires_at, request_id = answer.request_id }
end

return _M
