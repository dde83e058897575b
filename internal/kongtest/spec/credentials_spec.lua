-- The life of credentials by a clock that the spec turns: never late, never shared.

describe("credentials", function()
  local credentials, now, calls, answer, timers
  local conf = { broker_url = "http://broker", role = "reports", gateway_role = "kong", timeout = 1000, ttl = 900 }
  local names = { "broker", "flight", "credentials" }

  local function rfc3339(t)
    return os.date("!%Y-%m-%dT%H:%M:%SZ", t)
  end

  local function issue(life)
    return function()
      return { access_key_id = "AK" .. #calls, secret_access_key = "s", session_token = "t", expires_at = rfc3339(now + life), request_id = "r" .. #calls }
    end
  end

  local function fail(fault)
    return function() return nil, fault end
  end

  local function word(name)
    return { headers = {}, name = name }
  end

  -- due runs what was set off in the background.
  local function due()
    local list = timers
    timers = {}
    for _, timer in ipairs(list) do
      timer[1](false, unpack(timer, 2))
    end
    return #list
  end

  before_each(function()
    now, calls, timers = 1800000000, {}, {}
    answer = issue(900)
    _G.ngx = {
      time = function() return now end, now = function() return now end, log = function() end, ERR = 1,
      timer = { at = function(_, ...)
        timers[#timers + 1] = { ... }
        return true
      end },
    }
    for _, name in ipairs(names) do
      package.loaded["kong.plugins.credential-broker." .. name] = nil
    end
    package.loaded["kong.plugins.credential-broker.flight"] = { run = function(_, _, _, work) return work() end }
    package.loaded["kong.plugins.credential-broker.broker"] = {
      LAST_SECONDS = 5, UNAVAILABLE = { status = 503 },
      session_name = function(settings) return settings.gateway_role or "" end,
      epoch = function(text)
        local y, mo, d, h, mi, s = tostring(text):match("^(%d+)-(%d+)-(%d+)T(%d+):(%d+):(%d+)Z$")
        return y and os.time { year = y, month = mo, day = d, hour = h, min = mi, sec = s, isdst = false } - os.time(os.date("!*t", 0)) or nil
      end,
      call = function(_, path, arguments, said)
        calls[#calls + 1] = { path, arguments.role, arguments.ttl_seconds, said.name }
        return answer()
      end,
    }
    credentials = require "kong.plugins.credential-broker.credentials"
  end)

  after_each(function()
    for _, name in ipairs(names) do
      package.loaded["kong.plugins.credential-broker." .. name] = nil
    end
  end)

  it("are asked for once, by role and word", function()
    assert.equal("AK1", credentials.get(conf, word "alice").access_key_id)
    assert.equal("AK1", credentials.get(conf, word "alice").access_key_id)
    assert.same({ { "/v1/credentials", "reports", 900, "alice" } }, calls)
  end)

  it("are nobody else's", function()
    local seen = {}
    for _, case in ipairs {
      { conf, "alice" }, { conf, "bob" }, { { broker_url = "http://other", role = "reports", timeout = 1000 }, "alice" },
      { { broker_url = "http://broker", role = "other", timeout = 1000 }, "alice" }, { { broker_url = "http://broker", role = "reports", timeout = 1000, ttl = 60 }, "alice" },
      { { broker_url = "http://broker", role = "reports", timeout = 1000, ttl = 900, gateway_role = "other" }, "alice" },
    } do
      local key = credentials.get(case[1], word(case[2])).access_key_id
      assert.is_nil(seen[key])
      seen[key] = true
    end
    assert.equal(6, #calls)
  end)

  it("are renewed in the background in the last quarter of their life, once at a time", function()
    credentials.get(conf, word "alice")
    now = now + 600
    credentials.get(conf, word "alice")
    assert.equal(0, #timers)
    now = now + 75
    assert.equal("AK1", credentials.get(conf, word "alice").access_key_id)
    assert.equal("AK1", credentials.get(conf, word "alice").access_key_id)
    assert.equal(1, #calls)
    assert.equal(1, due())
    assert.equal(2, #calls)
    assert.equal("AK2", credentials.get(conf, word "alice").access_key_id)
    assert.equal(0, #timers)
  end)

  it("are used until they end where they can't be renewed, and no longer", function()
    credentials.get(conf, word "alice")
    answer = fail { status = 503 }
    now = now + 675
    for _ = 1, 44 do -- every 5 s a try
      assert.equal("AK1", credentials.get(conf, word "alice").access_key_id)
      assert.equal(1, due())
      credentials.get(conf, word "alice")
      assert.equal(0, #timers)
      now = now + 5
    end
    assert.is_nil((credentials.get(conf, word "alice")))
    assert.equal(1800000000 + 895, now)
    local none, fault = credentials.get(conf, word "alice")
    assert.is_nil(none)
    assert.equal(503, fault.status)
  end)

  it("are dropped when the broker refuses to renew them", function()
    credentials.get(conf, word "alice")
    now = now + 700
    answer = fail { status = 403, refused = true }
    credentials.get(conf, word "alice")
    due()
    local none, fault = credentials.get(conf, word "alice")
    assert.is_nil(none)
    assert.equal(403, fault.status)
  end)

  it("aren't asked for again within a second of a refusal, but of nothing else", function()
    answer = fail { status = 403, refused = true }
    credentials.get(conf, word "alice")
    credentials.get(conf, word "alice")
    assert.equal(1, #calls)
    credentials.get(conf, word "bob")
    assert.equal(2, #calls)
    now = now + 2
    credentials.get(conf, word "alice")
    assert.equal(3, #calls)
    answer = fail { status = 503 }
    credentials.get(conf, word "carol")
    credentials.get(conf, word "carol")
    assert.equal(5, #calls)
  end)

  it("that are none are not taken", function()
    for _, change in ipairs {
      { access_key_id = "" }, { access_key_id = "a\r\nb" }, { secret_access_key = 1 }, { session_token = "" }, { session_token = "a b" }, { expires_at = "soon" },
      { expires_at = rfc3339(1800000000 + 5) }, { expires_at = rfc3339(1800000000 - 5) },
    } do
      answer = function()
        local got = issue(900)()
        for key, value in pairs(change) do
          got[key] = value
        end
        return got
      end
      local none, fault = credentials.get(conf, word "alice")
      assert.is_nil(none)
      assert.equal(503, fault.status)
    end
  end)

  it("that are the same after a renewal are asked about a little later, not at once", function()
    answer = issue(20)
    local ends = now + 20
    credentials.get(conf, word "alice")
    answer = function()
      local got = issue(0)()
      got.expires_at = rfc3339(ends)
      return got
    end
    now = now + 11
    credentials.get(conf, word "alice")
    assert.equal(1, due())
    credentials.get(conf, word "alice")
    assert.equal(0, #timers)
  end)
end)
