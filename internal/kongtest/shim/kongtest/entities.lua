-- The entities of a declarative configuration, as plugins look them up.

local _M = { consumers = {} }

local groups_of, keys, jwts = {}, {}, {}

local function id_of(seed)
  return (ngx.md5(seed):gsub("^(%x%x%x%x%x%x%x%x)(%x%x%x%x)(%x%x%x%x)(%x%x%x%x)(%x+)$", "%1-%2-%3-%4-%5"))
end
_M.id_of = id_of

-- load takes the consumers of a declarative configuration with their credentials and groups.
function _M.load(config)
  for _, c in ipairs(config.consumers or {}) do
    local consumer = { id = c.id or id_of("consumer " .. (c.username or c.custom_id)), username = c.username, custom_id = c.custom_id }
    _M.consumers[consumer.id] = consumer
    if c.username then
      _M.consumers[c.username] = consumer
    end
    local groups = {}
    for _, acl in ipairs(c.acls or {}) do
      groups[#groups + 1] = acl.group
      groups[acl.group] = acl.group
    end
    groups_of[consumer.id] = groups
    for _, k in ipairs(c.keyauth_credentials or {}) do
      keys[k.key] = { consumer = consumer, credential = { id = k.id or id_of("key " .. k.key), key = k.key } }
    end
    for _, j in ipairs(c.jwt_secrets or {}) do
      local credential = { id = j.id or id_of("jwt " .. j.key), key = j.key, algorithm = j.algorithm or "HS256", secret = j.secret,
        rsa_public_key = j.rsa_public_key }
      jwts[j.key] = { consumer = consumer, credential = credential }
    end
  end
end

function _M.groups(id) return groups_of[id] or {} end
function _M.key(key) return keys[key] end
function _M.jwt(key) return jwts[key] end

return _M
