-- The shared field types that the plugin's schema names.

local function typedef(base)
  return setmetatable(base, { __call = function(_, more)
    local field = {}
    for key, value in pairs(base) do
      field[key] = value
    end
    for key, value in pairs(more) do
      field[key] = value
    end
    return field
  end })
end

return {
  url = typedef { type = "string", url = true },
  host = typedef { type = "string", match = "^[A-Za-z0-9._:%[%]-]+$" },
  port = typedef { type = "integer", between = { 0, 65535 } },
  no_consumer = typedef { type = "foreign", reference = "consumers", eq = ngx and ngx.null },
  protocols_http = typedef { type = "set", elements = { type = "string", one_of = { "http", "https", "grpc", "grpcs" } } },
}
