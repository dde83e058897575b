-- untrusted_lua = sandbox: what a function of pre-function or post-function sees. No require but for what the operator allows
-- (untrusted_lua_sandbox_requires), no metatables, no files, no loading of code.

local _M = {}

local GLOBALS = { "assert", "error", "ipairs", "next", "pairs", "pcall", "select", "tonumber", "tostring", "type", "unpack", "xpcall", "string",
  "table", "math", "coroutine" }

-- new returns an environment; allowed names modules, nil none.
function _M.new(allowed)
  local env = { kong = kong, ngx = ngx, _VERSION = _VERSION, os = { clock = os.clock, difftime = os.difftime, time = os.time, date = os.date } }
  for _, name in ipairs(GLOBALS) do
    env[name] = _G[name]
  end
  local permitted = {}
  for _, name in ipairs(allowed or {}) do
    permitted[name] = true
  end
  if next(permitted) then
    env.require = function(name)
      if not permitted[name] then
        error("require '" .. tostring(name) .. "' not allowed within sandbox", 2)
      end
      return require(name)
    end
  end
  env._G = env
  return env
end

return _M
