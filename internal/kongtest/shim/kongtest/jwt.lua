-- JWTs as Kong's jwt plugin takes them: the credential is found by a claim (or the header's member of that name), names the one algorithm,
-- and holds the key.

local cjson = require "cjson.safe"

local _M = {}

local function decode(part)
  part = part:gsub("-", "+"):gsub("_", "/")
  return ngx.decode_base64(part .. ("="):rep(-#part % 4))
end

local function integer(bytes)
  bytes = bytes:gsub("^%z+", "")
  if bytes == "" or bytes:byte() > 127 then
    bytes = "\0" .. bytes
  end
  return "\2" .. string.char(#bytes) .. bytes
end

local function verified(credential, signed, signature)
  if credential.algorithm == "HS256" then
    local hmac = require "openssl.hmac"
    return hmac.new(credential.secret, "sha256"):final(signed) == signature
  end
  local key = require("openssl.pkey").new(credential.rsa_public_key)
  local digest = require("openssl.digest").new("sha256"):update(signed)
  if credential.algorithm == "ES256" then
    if #signature ~= 64 then
      return false
    end
    local both = integer(signature:sub(1, 32)) .. integer(signature:sub(33))
    signature = "\48" .. string.char(#both) .. both
  elseif credential.algorithm ~= "RS256" then
    return false
  end
  return key:verify(signature, digest)
end

-- verify returns the claims and the credential that it found by lookup(value of the claim), or nil.
function _M.verify(token, claim, lookup)
  local head, body, mark = token:match("^([%w_-]+)%.([%w_-]+)%.([%w_-]+)$")
  if not head then
    return nil
  end
  local header, claims = cjson.decode(decode(head) or ""), cjson.decode(decode(body) or "")
  local signature = decode(mark)
  if type(header) ~= "table" or type(claims) ~= "table" or not signature then
    return nil
  end
  local credential = lookup(claims[claim] or header[claim])
  if not credential or header.alg ~= credential.algorithm then
    return nil
  end
  local ok, good = pcall(verified, credential, head .. "." .. body, signature)
  if not ok or not good then
    return nil
  end
  return claims, credential
end

return _M
