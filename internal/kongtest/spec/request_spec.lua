-- What of a client's request may reach the store, without nginx.

local request = require "kong.plugins.credential-broker.request"

local function sorted(list)
  table.sort(list)
  return table.concat(list, " ")
end

local function removed(headers, own)
  return sorted(assert(request.headers(headers, own or {})).remove)
end

local function signed(headers)
  local names = {}
  for _, header in ipairs(assert(request.headers(headers, {})).signed) do
    names[#names + 1] = header[1]
  end
  return sorted(names)
end

describe("headers", function()
  it("lose what speaks for the client, in every spelling", function()
    for _, name in ipairs {
      "authorization", "proxy-authorization", "x-amz-security-token", "x-amz-date", "x-amz-credential", "x-amz-signature", "x-amz-algorithm", "x-amz-signedheaders",
      "x-amz-expires", "x-consumer-id", "x-consumer-custom-id", "x-consumer-username", "x-consumer-groups", "x-credential-identifier", "x-credential-username",
      "x-anonymous-consumer", "x-authenticated-groups", "x-authenticated-scope", "x-authenticated-userid", "x-credbroker-anything", "x-minio-anything",
    } do
      for _, spelling in ipairs { name, (name:gsub("-", "_")), (name:gsub("-", ".")), (name:gsub("-", "")), (name:gsub("-", "_", 1)) } do
        local got = assert(request.headers({ [spelling] = "x" }, {}))
        assert.same({ spelling }, got.remove, spelling)
        assert.same({}, got.signed, spelling)
      end
    end
  end)

  it("lose what looks like S3's and isn't", function()
    for _, name in ipairs { "x_amz_copy_source", "x.amz.acl", "xamzacl", "x-amz_acl", "x-amz-acl_", "x-amz-acl.x", "x-amz.meta-a", "x_amz-meta-a", "x-amz-meta-", "x-amz-" } do
      if name ~= "x-amz-" then
        assert.equal(name, removed { [name] = "x" })
      end
      assert.equal(name == "x-amz-" and name or "", signed { [name] = "x" })
    end
  end)

  it("keep S3's own and sign them", function()
    local headers = { host = "h", accept = "*/*", ["if-match"] = "x", ["content-length"] = "1", ["user-agent"] = "x" }
    for _, name in ipairs {
      "x-amz-meta-a", "x-amz-meta-a_b.c", "x-amz-tagging", "x-amz-copy-source", "x-amz-acl", "x-amz-server-side-encryption-customer-key", "content-type", "content-md5", "range",
    } do
      headers[name] = "x"
    end
    assert.equal("content-md5 content-type range x-amz-acl x-amz-copy-source x-amz-meta-a x-amz-meta-a_b.c x-amz-server-side-encryption-customer-key x-amz-tagging",
      signed(headers))
    assert.equal("", removed(headers))
  end)

  it("lose those that the plugin sets itself", function()
    local own = { [request.folded "X-Aws-Session-Token"] = true }
    for _, name in ipairs { "x-aws-session-token", "x_aws_session_token", "x.aws.session.token", "xawssessiontoken" } do
      assert.equal(name, removed({ [name] = "x" }, own))
    end
    assert.equal("x-amz-content-sha256", removed { ["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD" })
  end)

  it("are joined where S3 joins them, and refused where it doesn't", function()
    local got = assert(request.headers({ ["x-amz-meta-a"] = { "1", "2" } }, {}))
    assert.same({ ["x-amz-meta-a"] = "1,2" }, got.join)
    assert.same({ { "x-amz-meta-a", "1,2" } }, got.signed)
    for _, name in ipairs { "content-type", "content-md5", "range" } do
      local none, fault = request.headers({ [name] = { "1", "2" } }, {})
      assert.is_nil(none)
      assert.equal(400, fault.status)
    end
  end)

  it("go on when a client has always other names", function()
    for i = 1, 3000 do
      assert.equal("", removed { ["x-" .. i] = "x" })
    end
    assert.equal("x-consumer-id", removed { ["x-consumer-id"] = "x" })
  end)
end)

describe("bodies", function()
  local TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
  local function payload(headers)
    local got, fault = request.headers(headers, {})
    return got and got.payload or fault.status
  end

  it("are signed by what is said of them", function()
    local hash = ("0a"):rep(32)
    assert.equal("UNSIGNED-PAYLOAD", payload {})
    assert.equal("UNSIGNED-PAYLOAD", payload { ["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD" })
    assert.equal(hash, payload { ["x-amz-content-sha256"] = hash })
    assert.equal(hash, payload { ["x-amz-content-sha256"] = hash:upper() })
    assert.equal(TRAILER, payload { ["x-amz-content-sha256"] = TRAILER, ["content-encoding"] = "aws-chunked", ["x-amz-trailer"] = "x", ["x-amz-decoded-content-length"] = "5" })
    assert.equal("UNSIGNED-PAYLOAD", payload { ["content-encoding"] = "gzip" })
  end)

  it("that are signed chunk by chunk are refused with what to change", function()
    for _, value in ipairs { "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD" } do
      assert.equal(501, payload { ["x-amz-content-sha256"] = value })
    end
  end)

  it("that are framed and don't say so are refused", function()
    local hash = ("0a"):rep(32)
    for _, value in ipairs { "", "unsigned-payload", "STREAMING", "STREAMING-UNSIGNED-PAYLOAD", ("0a"):rep(31), ("0g"):rep(32), hash .. "0a" } do
      assert.equal(400, payload { ["x-amz-content-sha256"] = value })
    end
    for _, value in ipairs { false, "UNSIGNED-PAYLOAD", hash } do
      assert.equal(400, payload { ["x-amz-content-sha256"] = value or nil, ["content-encoding"] = "aws-chunked" })
      assert.equal(400, payload { ["x-amz-content-sha256"] = value or nil, ["content-encoding"] = "gzip,AWS-CHUNKED" })
      assert.equal(400, payload { ["x-amz-content-sha256"] = value or nil, ["content-encoding"] = { "gzip", "aws-chunked" } })
      assert.equal(400, payload { ["x-amz-content-sha256"] = value or nil, ["x-amz-decoded-content-length"] = "5" })
      assert.equal(400, payload { ["x-amz-content-sha256"] = value or nil, ["x-amz-trailer"] = "x" })
    end
    assert.equal(400, payload { ["x-amz-content-sha256"] = { hash, hash } })
  end)
end)

describe("target", function()
  it("loses what authenticates", function()
    for _, name in ipairs {
      "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature", "X-Amz-Security-Token", "x-amz-signature",
      "X_Amz_Signature", "X%2DAmz-Signature", "AWSAccessKeyId", "Signature", "Expires",
    } do
      local path, list = request.target("/b/k", "a=1&" .. name .. "=x&b=2")
      assert.equal("/b/k", path)
      assert.same({ { "a", "1" }, { "b", "2" } }, list, name)
    end
  end)

  it("is refused with what is wrong", function()
    for _, case in ipairs { { "/a/../b", "" }, { "/a%2F..", "" }, { "/a", "%" } } do
      local path, fault = request.target(case[1], case[2])
      assert.is_nil(path)
      assert.equal(400, fault.status)
    end
  end)
end)
