-- The plugin's settings. docs/kong.md has them with their reasons.

local typedefs = require "kong.db.schema.typedefs"

local config = {
  type = "record",
  fields = {
    { max_expires = { type = "integer", required = true, default = 60, between = { 1, 604800 },
      description = "For how many seconds a URL may be good at most. The broker makes none for longer than 60." } },
  },
}

return {
  name = "credential-broker-presigned",
  fields = {
    { consumer = typedefs.no_consumer },
    { protocols = typedefs.protocols_http },
    { config = config },
  },
}
