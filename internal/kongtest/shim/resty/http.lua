-- Stands in for lua-resty-http, which Kong brings and Debian doesn't: request_uri alone, over the same sockets of ngx_lua.

local _M = {}
_M.__index = _M

-- Where hosts are that a test stands in for: NAME=ADDRESS:PORT, separated by spaces.
local elsewhere = {}
for name, address, port in (os.getenv("KONGTEST_HOSTS") or ""):gmatch("([^=%s]+)=([^:%s]+):(%d+)") do
  elsewhere[name] = { address, tonumber(port) }
end

-- As much of an answer as tests ever get.
local MAX_BODY = 1024 * 1024

function _M.new()
  return setmetatable({ timeout = 60000 }, _M)
end

function _M:set_timeout(ms)
  self.timeout = ms
end

local function field_names()
  return setmetatable({}, { __index = function(t, name)
    return rawget(t, string.lower(name))
  end })
end

local function read_chunks(sock)
  local parts, total = {}, 0
  while true do
    local line, err = sock:receive("*l")
    if not line then
      return nil, err
    end
    local size = tonumber(line, 16)
    if not size or total + size > MAX_BODY then
      return nil, "bad or large chunk"
    end
    if size == 0 then
      sock:receive("*l")
      return table.concat(parts)
    end
    local data
    data, err = sock:receive(size)
    if not data then
      return nil, err
    end
    parts[#parts + 1], total = data, total + size
    sock:receive(2)
  end
end

local function read_body(sock, method, status, headers)
  if method == "HEAD" or status == 204 or status == 304 then
    return ""
  end
  if headers["transfer-encoding"] then
    return read_chunks(sock)
  end
  local size = tonumber(headers["content-length"] or "0")
  if size > MAX_BODY then
    return nil, "large body"
  end
  return size == 0 and "" or sock:receive(size)
end

function _M:request_uri(uri, options)
  local scheme, host, port, target = uri:match("^(https?)://([^:/]+):?(%d*)(.*)$")
  if not scheme then
    return nil, "bad uri"
  end
  port = tonumber(port) or (scheme == "https" and 443 or 80)
  local sock = ngx.socket.tcp()
  sock:settimeouts(self.timeout, self.timeout, self.timeout)
  local address = elsewhere[host] or { host, port }
  local ok, err = sock:connect(address[1], address[2], { pool = scheme .. host .. port .. tostring(options.ssl_client_cert ~= nil) })
  if not ok then
    return nil, err
  end
  if scheme == "https" and sock:getreusedtimes() == 0 then
    if options.ssl_client_cert then
      ok, err = sock:setclientcert(options.ssl_client_cert, options.ssl_client_priv_key)
      if not ok then
        return nil, err
      end
    end
    ok, err = sock:sslhandshake(nil, host, options.ssl_verify ~= false)
    if not ok then
      return nil, err
    end
  end
  local lines = { (options.method or "GET") .. " " .. (target == "" and "/" or target) .. " HTTP/1.1", "Host: " .. host .. ":" .. port }
  for name, value in pairs(options.headers or {}) do
    lines[#lines + 1] = name .. ": " .. value
  end
  if options.body then
    lines[#lines + 1] = "Content-Length: " .. #options.body
  end
  ok, err = sock:send(table.concat(lines, "\r\n") .. "\r\n\r\n" .. (options.body or ""))
  if not ok then
    return nil, err
  end
  local line
  line, err = sock:receive("*l")
  local status = line and tonumber(line:match("^HTTP/1%.1 (%d%d%d)"))
  if not status then
    return nil, err or "bad answer"
  end
  local headers = field_names()
  while true do
    line, err = sock:receive("*l")
    if not line then
      return nil, err
    end
    if line == "" then
      break
    end
    local name, value = line:match("^([^:]+):%s*(.-)%s*$")
    headers[string.lower(name)] = value
  end
  local body
  body, err = read_body(sock, options.method, status, headers)
  if not body then
    return nil, err
  end
  if options.keepalive == false then
    sock:close()
  else
    sock:setkeepalive(10000, 100)
  end
  return { status = status, headers = headers, body = body }
end

return _M
