-- AWS Signature Version 4 for S3: canonical forms, the derived key, headers or a query that carry the signature.
-- https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
--
-- Nothing here reads the request: the caller passes what it will send. For S3 a path is escaped once and not normalised.

local digest = require "kong.plugins.credential-broker.digest"

local byte, char, find, format, gsub, sub = string.byte, string.char, string.find, string.format, string.gsub, string.sub
local concat, sort = table.concat, table.sort
local tonumber = tonumber

local _M = { ALGORITHM = "AWS4-HMAC-SHA256" }

local ESCAPED = {}
for i = 0, 255 do
  ESCAPED[char(i)] = format("%%%02X", i)
end

local UNESCAPED = setmetatable({}, { __index = function(_, digits) return char(tonumber(digits, 16)) end })

-- escape is RFC 3986: all but A-Z a-z 0-9 - . _ ~.
local function escape(s)
  if not find(s, "[^A-Za-z0-9%-._~]") then
    return s
  end
  return (gsub(s, "[^A-Za-z0-9%-._~]", ESCAPED))
end
_M.escape = escape

-- unescape decodes %XX; nil if a "%" begins no such thing.
local function unescape(s)
  if not find(s, "%", 1, true) then
    return s
  end
  local _, escapes = gsub(s, "%%%x%x", "")
  local _, signs = gsub(s, "%%", "")
  if escapes ~= signs then
    return nil
  end
  return (gsub(s, "%%(%x%x)", UNESCAPED))
end
_M.unescape = unescape

-- path returns the escaped form of a path of a URL, which names the same object and is to be sent as it is signed; and what is
-- wrong with one that servers don't agree on: empty and dot segments, control characters, broken escapes.
function _M.path(raw)
  if byte(raw) ~= 47 then
    return nil, "the path doesn't begin with /"
  end
  local plain = unescape(raw)
  if not plain then
    return nil, "the path has a % that begins no escape"
  end
  if find(plain, "[%z\1-\31\127]") then
    return nil, "the path has a control character"
  end
  if find(plain, "//", 1, true) then
    return nil, "the path has an empty segment"
  end
  if find(plain, "/.", 1, true) and (find(plain, "/%.%.?/") or find(plain, "/%.%.?$")) then
    return nil, "the path has a segment of dots"
  end
  if not find(plain, "[^A-Za-z0-9%-._~/]") then
    return plain
  end
  return (gsub(plain, "[^A-Za-z0-9%-._~/]", ESCAPED))
end

-- parameters splits a query as forms are: "+" is a space, ";" is none of its separators. Each is {name, value}, decoded.
function _M.parameters(raw)
  local list, n = {}, 0
  for pair in string.gmatch(raw, "[^&]+") do
    if find(pair, "+", 1, true) then
      pair = gsub(pair, "+", "%%20")
    end
    local at = find(pair, "=", 1, true)
    local name = unescape(at and sub(pair, 1, at - 1) or pair)
    local worth = unescape(at and sub(pair, at + 1) or "")
    if not name or not worth then
      return nil, "the query has a % that begins no escape"
    end
    if name ~= "" or worth ~= "" then
      n = n + 1
      list[n] = { name, worth }
    end
  end
  return list
end

-- query is the canonical query of parameters, which is also what is to be sent: sorted by escaped name, then value.
function _M.query(list)
  local n = #list
  if n == 0 then
    return ""
  end
  local pairs_ = {}
  for i = 1, n do
    -- "\0" sorts before all that an escaped name holds, as the end of a name has to.
    pairs_[i] = escape(list[i][1]) .. "\0" .. escape(list[i][2])
  end
  sort(pairs_)
  return (gsub(concat(pairs_, "&"), "%z", "="))
end

-- value trims a header's value and folds its spaces, as the canonical form has them. Most values have none, and a plain search says so
-- fast: a session token is long, and patterns look at each of its bytes.
local function value(s)
  if not (find(s, " ", 1, true) or find(s, "\t", 1, true) or find(s, "\v", 1, true) or find(s, "\f", 1, true)) then
    return s
  end
  return (gsub(gsub(gsub(s, "^%s+", ""), "%s+$", ""), "%s+", " "))
end
_M.value = value

-- headers returns the canonical headers and the list of their names. Each is {name, value}, the name in lower case; no two are alike.
local function headers(list)
  sort(list, function(a, b) return a[1] < b[1] end)
  local lines, names = {}, {}
  for i = 1, #list do
    names[i] = list[i][1]
    lines[i] = names[i] .. ":" .. value(list[i][2]) .. "\n"
  end
  return concat(lines), concat(names, ";")
end
_M.headers = headers

-- signing_key derives the key of a day, region and service from a secret access key, prepared for digest.mac.
local function signing_key(secret, day, region, service)
  local raw = digest.mac(digest.key("AWS4" .. secret), day)
  raw = digest.mac(digest.key(raw), region)
  raw = digest.mac(digest.key(raw), service)
  return digest.key(digest.mac(digest.key(raw), "aws4_request"))
end
_M.signing_key = signing_key

-- derived is signing_key, kept with the credential until the day, region or service is another one.
local function derived(credential, day, region, service)
  local scope = day .. "/" .. region .. "/" .. service .. "/aws4_request"
  local kept = credential.derived
  if not kept or kept.scope ~= scope then
    kept = { scope = scope, key = signing_key(credential.secret_access_key, day, region, service) }
    credential.derived = kept
  end
  return kept.key, scope
end

local function signature(key, at, scope, request)
  return digest.hex(digest.mac(key, _M.ALGORITHM .. "\n" .. at .. "\n" .. scope .. "\n" .. digest.sha256_hex(request)))
end

-- authorization returns the value of the Authorization header. r has method, path and query in canonical form, headers ({name, value}
-- each, X-Amz-Date among them), payload (the value of x-amz-content-sha256), at (YYYYMMDD'T'HHMMSS'Z'), region and service.
function _M.authorization(credential, r)
  local lines, names = headers(r.headers)
  local key, scope = derived(credential, sub(r.at, 1, 8), r.region, r.service)
  local canonical = r.method .. "\n" .. r.path .. "\n" .. r.query .. "\n" .. lines .. "\n" .. names .. "\n" .. r.payload
  return _M.ALGORITHM .. " Credential=" .. credential.access_key_id .. "/" .. scope .. ", SignedHeaders=" .. names ..
    ", Signature=" .. signature(key, r.at, scope, canonical)
end

-- presigned returns the query that carries the signature, for r.expires seconds. r is as above, but for parameters instead of query.
function _M.presigned(credential, r)
  local lines, names = headers(r.headers)
  local key, scope = derived(credential, sub(r.at, 1, 8), r.region, r.service)
  local list = {}
  for i = 1, #r.parameters do
    list[i] = r.parameters[i]
  end
  local function add(name, v)
    list[#list + 1] = { name, v }
  end
  add("X-Amz-Algorithm", _M.ALGORITHM)
  add("X-Amz-Credential", credential.access_key_id .. "/" .. scope)
  add("X-Amz-Date", r.at)
  add("X-Amz-Expires", format("%d", r.expires))
  add("X-Amz-SignedHeaders", names)
  if credential.session_token then
    add("X-Amz-Security-Token", credential.session_token)
  end
  local query = _M.query(list)
  local canonical = r.method .. "\n" .. r.path .. "\n" .. query .. "\n" .. lines .. "\n" .. names .. "\n" .. r.payload
  return query .. "&X-Amz-Signature=" .. signature(key, r.at, scope, canonical)
end

return _M
