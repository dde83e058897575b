-- One run for all who want the same at the same time, within a worker.

local semaphore = require "ngx.semaphore"

local _M = {}

local flights = {}

-- How long a run counts, in seconds: should its request be torn down, others don't wait for it for ever.
local LIFE = 30

-- run returns what work() returns (a value, or nil and a fault), or what the run returns that is under way under the same name. It waits
-- for that at most the given seconds, and then returns the fault late.
function _M.run(name, seconds, late, work)
  local flight = flights[name]
  if flight and ngx.now() - flight.began < LIFE then
    flight.waiting = flight.waiting + 1
    if not flight.done:wait(seconds) then
      return nil, late
    end
    return flight.value, flight.fault
  end

  flight = { began = ngx.now(), waiting = 0, done = semaphore.new() }
  flights[name] = flight
  local ok, value, fault = pcall(work)
  if flights[name] == flight then
    flights[name] = nil
  end
  if not ok then
    ngx.log(ngx.ERR, "[credential-broker] ", value)
    value, fault = nil, late
  end
  flight.value, flight.fault = value, fault
  if flight.waiting > 0 then
    flight.done:post(flight.waiting)
  end
  return value, fault
end

return _M
