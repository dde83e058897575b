-- How Kong rewrites the path of what it proxies.

local _M = {}

-- Characters whose escapes have a meaning of their own, so that they stay escaped.
local RESERVED = "[!%*'%(%);:@&=%+%$,/%?%%#%[%]]"

-- normalize decodes escapes but for reserved characters, drops dot segments and merges slashes.
function _M.normalize(path)
  path = path:gsub("%%(%x%x)", function(digits)
    local c = string.char(tonumber(digits, 16))
    return c:find(RESERVED) and "%" .. digits:upper() or c
  end)
  local out = {}
  local open = false
  for segment in path:gmatch("[^/]*") do
    if segment == ".." then
      out[#out] = nil
      open = true
    elseif segment == "." then
      open = true
    elseif segment ~= "" then
      out[#out + 1] = segment
      open = false
    end
  end
  open = open or path:sub(-1) == "/"
  return "/" .. table.concat(out, "/") .. ((open and #out > 0) and "/" or "")
end

-- escape escapes what may not stand in a request line.
function _M.escape(path)
  return (path:gsub("[^!#%$&'%(%)%*%+,/:;=%?@%[\\%]A-Za-z0-9%-_%.~%%]", function(c)
    return string.format("%%%02X", c:byte())
  end))
end

return _M
