-- SHA-256, HMAC-SHA-256 (RFC 2104) and hex, over the resty.sha256 that comes with Kong.
--
-- An HMAC key is prepared once: the two padded blocks are kept, so that a MAC is two hashes and allocates no context.

local bit = require "bit"
local ffi = require "ffi"
local sha256 = require "resty.sha256"

local byte, char, concat = string.byte, string.char, table.concat

local _M = {}

-- One context for the worker: nothing here yields between reset and final.
local state = sha256:new()

local function hash(a, b)
  state:reset()
  state:update(a)
  if b then
    state:update(b)
  end
  return state:final()
end

local DIGITS = "0123456789abcdef"
local out = ffi.new("uint8_t[64]")

-- hex writes 32 bytes as 64 digits in lower case.
local function hex(raw)
  for i = 1, 32 do
    local b = byte(raw, i)
    out[2 * i - 2] = byte(DIGITS, bit.rshift(b, 4) + 1)
    out[2 * i - 1] = byte(DIGITS, bit.band(b, 15) + 1)
  end
  return ffi.string(out, 64)
end

local function pad(key, with)
  local bytes = { byte(key, 1, #key) }
  for i = 1, 64 do
    bytes[i] = char(bit.bxor(bytes[i] or 0, with))
  end
  return concat(bytes)
end

-- key prepares a key of any length for mac.
function _M.key(raw)
  if #raw > 64 then
    raw = hash(raw)
  end
  return { inner = pad(raw, 0x36), outer = pad(raw, 0x5c) }
end

-- mac is the HMAC of a message under a prepared key, 32 bytes.
function _M.mac(key, message)
  return hash(key.outer, hash(key.inner, message))
end

-- sha256_hex is the hash of a message in lower-case hex.
function _M.sha256_hex(message)
  return hex(hash(message))
end

_M.hex = hex

return _M
