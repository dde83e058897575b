-- What of a client's request may reach the object store, and what of it is signed.
--
-- The store must hear one voice, the broker's. So all goes that could speak for the client: credentials in headers and in the query, and
-- identity headers, in every spelling that a proxy or a framework may take for them. S3's own headers stay, and are signed.

local sigv4 = require "kong.plugins.credential-broker.sigv4"

local find, gsub, lower, sub = string.find, string.gsub, string.lower, string.sub
local concat = table.concat
local pairs, type = pairs, type

local _M = {}

-- The same names come with every request. Those of a client that has always others push out the rest, and it goes on.
local known, count = {}, 0

-- folded is what is left of a name once all is dropped that somebody on the way may fold.
local function folded(name)
  local plain = known[name]
  if not plain then
    plain = gsub(lower(name), "[-_.]", "")
    if count >= 1000 then
      known, count = {}, 0
    end
    known[name], count = plain, count + 1
  end
  return plain
end

local function set(names)
  local out = {}
  for name in string.gmatch(names, "%S+") do
    out[folded(name)] = true
  end
  return out
end

-- Headers that say who asks, or prove it.
local SPEAKS = set [[
  authorization proxy-authorization
  x-amz-security-token x-amz-date x-amz-credential x-amz-signature x-amz-algorithm x-amz-signedheaders x-amz-expires
  x-consumer-id x-consumer-custom-id x-consumer-username x-consumer-groups x-credential-identifier x-credential-username
  x-anonymous-consumer x-authenticated-groups x-authenticated-scope x-authenticated-userid
]]

-- speaks says whether a header of that name, folded, is one of them, or means something to the broker or to MinIO alone.
local function speaks(plain)
  return SPEAKS[plain] or sub(plain, 1, 11) == "xcredbroker" or sub(plain, 1, 6) == "xminio"
end

-- Parameters of a query that do; the last three are of signature version 2.
local AUTHENTICATES = set [[
  x-amz-algorithm x-amz-credential x-amz-date x-amz-expires x-amz-signedheaders x-amz-signature x-amz-security-token
  awsaccesskeyid signature expires
]]

-- Signed besides Host and X-Amz-*, where they are there: whoever changes one on the way is found out.
local SIGNED = { ["content-md5"] = true, ["content-type"] = true, range = true }

local TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

local function fault(status, code, message)
  return nil, { status = status, code = code, message = message }
end

-- payload returns the value of x-amz-content-sha256 that is signed. Bodies that are framed or signed in chunks are refused: signed
-- anew, they would be refused by the store, or stored with their framing.
local function payload(headers)
  local hash = headers["x-amz-content-sha256"]
  if type(hash) == "table" then
    return fault(400, "InvalidRequest", "X-Amz-Content-Sha256 is there more than once.")
  end
  if hash and find(hash, "^STREAMING%-AWS4%-") then
    return fault(501, "NotImplemented", "The body is signed chunk by chunk, which can't be signed anew. Set your client to send the payload " ..
      "unsigned: request_checksum_calculation=when_required and payload_signing_enabled=false with AWS's, DisableContentSha256 or TLS with minio-go.")
  end
  if hash == TRAILER then
    return hash
  end
  local encoding = headers["content-encoding"]
  if type(encoding) == "table" then
    encoding = concat(encoding, ",")
  end
  if headers["x-amz-decoded-content-length"] or headers["x-amz-trailer"] or (encoding and find(lower(encoding), "aws-chunked", 1, true)) then
    return fault(400, "InvalidRequest", "The body is framed as aws-chunked, which goes with X-Amz-Content-Sha256: " .. TRAILER .. " alone.")
  end
  if not hash then
    return "UNSIGNED-PAYLOAD"
  end
  if hash == "UNSIGNED-PAYLOAD" then
    return hash
  end
  if #hash == 64 and find(hash, "^[0-9a-fA-F]+$") then
    return lower(hash)
  end
  return fault(400, "InvalidRequest", "X-Amz-Content-Sha256 is neither a digest in hex, UNSIGNED-PAYLOAD nor " .. TRAILER .. ".")
end

-- headers sorts a client's headers (ngx.req.get_headers: name in lower case → value or values). It returns
-- {remove = names, join = name → value, signed = {name, value} each, payload = value}, or nil and a fault. own names further headers,
-- folded, that the plugin sets itself.
function _M.headers(headers, own)
  local value, err = payload(headers)
  if not value then
    return nil, err
  end
  local remove, join, signed = {}, nil, {}
  for name, content in pairs(headers) do
    local amz = sub(name, 1, 6) == "x-amz-"
    local keep = true
    if amz and sub(name, 7, 11) == "meta-" then
      keep = #name > 11
    elseif name == "x-amz-content-sha256" then -- set anew
      keep = false
    else
      local plain = folded(name)
      if speaks(plain) or own[plain] then
        keep = false
      elseif sub(plain, 1, 4) == "xamz" then
        -- X_Amz_Copy_Source and its like are no header of S3's, until somebody takes them for one.
        keep = amz and not find(name, "[^a-z0-9-]")
      end
    end
    if not keep then
      remove[#remove + 1] = name
    elseif amz or SIGNED[name] then
      if type(content) == "table" then
        if not amz then
          return fault(400, "InvalidRequest", "The header " .. name .. " is there more than once.")
        end
        -- Sent in one line, as it is signed.
        content = concat(content, ",")
        join = join or {}
        join[name] = content
      end
      signed[#signed + 1] = { name, content }
    end
  end
  return { remove = remove, join = join, signed = signed, payload = value }
end

-- target returns the escaped path and the parameters of what is asked for, as they will be sent, or nil and a fault.
function _M.target(raw_path, raw_query)
  local path, err = sigv4.path(raw_path)
  if not path then
    return fault(400, "InvalidURI", "In the URL, " .. err .. ".")
  end
  local all
  all, err = sigv4.parameters(raw_query)
  if not all then
    return fault(400, "InvalidURI", "In the URL, " .. err .. ".")
  end
  local list = {}
  for i = 1, #all do
    if not AUTHENTICATES[folded(all[i][1])] then
      list[#list + 1] = all[i]
    end
  end
  return path, list
end

_M.folded, _M.speaks, _M.AUTHENTICATES, _M.TRAILER = folded, speaks, AUTHENTICATES, TRAILER

return _M
