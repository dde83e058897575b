-- What lua-check reads: the Lua that Kong and nginx run.
std = "ngx_lua"
self = false
max_line_length = 160
files["deploy/kong"] = { globals = { "kong" } }
files["internal/kongtest/shim"] = { globals = { "kong" } }
files["internal/kongtest/spec"] = { std = "+busted", max_line_length = false }
