-- What a client is told that gets nothing.

local _M = {}

-- send ends the request with an error as S3 has them, or with the broker's own if the settings say so. A fault is {status, code, message,
-- retry_after, broker = {status, type, body}}.
function _M.send(conf, fault)
  local headers = { ["Content-Type"] = "application/xml", ["Retry-After"] = fault.retry_after, ["Cache-Control"] = "no-store" }
  if conf.return_broker_error and fault.broker then
    headers["Content-Type"] = fault.broker.type or "application/json"
    return kong.response.exit(fault.broker.status, fault.broker.body, headers)
  end
  local id = ngx.var.kong_request_id or ngx.var.request_id
  return kong.response.exit(fault.status, '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>' .. fault.code .. "</Code><Message>" ..
    fault.message .. "</Message><RequestId>" .. id .. "</RequestId></Error>", headers)
end

return _M
