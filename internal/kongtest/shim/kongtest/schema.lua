-- Checks a plugin's configuration by its schema, and fills in defaults, as Kong does when it loads one. Attributes of fields that this
-- doesn't know are an error: what isn't checked is not claimed.

local _M = {}

local KNOWN = {}
for name in ([[type required default description one_of match len_min gt between referenceable encrypted fields entity_checks elements url]])
  :gmatch("%S+") do
  KNOWN[name] = true
end

local ENTITY_CHECKS = { conditional = true }

local function has(list, value)
  for _, each in ipairs(list) do
    if each == value then
      return true
    end
  end
  return false
end

local check_record

local function check_value(field, value, where, faults)
  local function fault(text)
    faults[#faults + 1] = where .. ": " .. text
  end
  local kind = field.type
  if kind == "record" then
    if type(value) ~= "table" then
      return fault "expected a record"
    end
    return check_record(field, value, where, faults)
  elseif kind == "string" then
    if type(value) ~= "string" then
      return fault "expected a string"
    end
    if field.len_min and #value < field.len_min then
      fault "length must be at least 1"
    end
    if field.match and not value:match(field.match) then
      fault("invalid value: " .. value)
    end
    if field.url and not value:match("^https?://[^/?#%s]+[^?#%s]*$") then
      fault "missing host in url"
    end
  elseif kind == "integer" then
    if type(value) ~= "number" or value % 1 ~= 0 then
      return fault "expected an integer"
    end
    if field.gt and value <= field.gt then
      fault("value must be greater than " .. field.gt)
    end
    if field.between and (value < field.between[1] or value > field.between[2]) then
      fault("value should be between " .. field.between[1] .. " and " .. field.between[2])
    end
  elseif kind == "boolean" then
    if type(value) ~= "boolean" then
      return fault "expected a boolean"
    end
  elseif kind == "set" or kind == "array" then
    if type(value) ~= "table" then
      return fault("expected a " .. kind)
    end
    for i, element in ipairs(value) do
      check_value(field.elements, element, where .. "[" .. i .. "]", faults)
    end
  else
    error("unknown type " .. tostring(kind))
  end
  if field.one_of and not has(field.one_of, value) then
    fault("expected one of: " .. table.concat(field.one_of, ", "))
  end
end

local function holds(condition, value)
  if condition.required then
    return value ~= nil and value ~= ngx.null
  elseif condition.eq ~= nil then
    return value == condition.eq
  elseif condition.ne ~= nil then
    return value ~= condition.ne
  elseif condition.one_of then
    return has(condition.one_of, value)
  end
  error("unknown condition")
end

function check_record(record, value, where, faults)
  local names = {}
  for _, entry in ipairs(record.fields) do
    local name, field = next(entry)
    names[name] = true
    for attribute in pairs(field) do
      if not KNOWN[attribute] then
        error("field " .. name .. ": unknown attribute " .. attribute)
      end
    end
    if value[name] == ngx.null then
      value[name] = nil
    end
    if value[name] == nil and field.default ~= nil then
      value[name] = field.default
    end
    if value[name] == nil and field.type == "record" and field.required then
      value[name] = {}
    end
    if value[name] == nil then
      if field.required then
        faults[#faults + 1] = where .. "." .. name .. ": required field missing"
      end
    else
      check_value(field, value[name], where .. "." .. name, faults)
    end
  end
  for name in pairs(value) do
    if not names[name] then
      faults[#faults + 1] = where .. "." .. tostring(name) .. ": unknown field"
    end
  end
  for _, check in ipairs(record.entity_checks or {}) do
    local kind, c = next(check)
    assert(ENTITY_CHECKS[kind], "unknown entity check " .. kind)
    assert(names[c.if_field] and names[c.then_field], "an entity check names no field: " .. c.then_field)
    if holds(c.if_match, value[c.if_field]) and not holds(c.then_match, value[c.then_field]) then
      faults[#faults + 1] = where .. "." .. c.then_field .. ": required field missing"
    end
  end
end

-- check returns the configuration with its defaults, or nil and the faults.
function _M.check(schema, config)
  for _, entry in ipairs(schema.fields) do
    local name, field = next(entry)
    if name == "config" then
      local faults = {}
      check_record(field, config, "config", faults)
      if #faults > 0 then
        return nil, table.concat(faults, "\n")
      end
      return config
    end
  end
  error("the schema has no config")
end

return _M
