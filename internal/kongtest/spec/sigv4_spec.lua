-- Signatures against what AWS publishes and what RFCs have, without nginx.

local digest = require "kong.plugins.credential-broker.digest"
local sigv4 = require "kong.plugins.credential-broker.sigv4"

describe("digest", function()
  it("is RFC 4231's HMAC-SHA-256", function()
    for _, case in ipairs {
      { ("\11"):rep(20), "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7" },
      { "Jefe", "what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843" },
      { ("\170"):rep(20), ("\221"):rep(50), "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe" },
      { ("\170"):rep(131), "Test Using Larger Than Block-Size Key - Hash Key First", "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54" },
    } do
      assert.equal(case[3], digest.hex(digest.mac(digest.key(case[1]), case[2])))
    end
  end)

  it("hashes", function()
    assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", digest.sha256_hex "")
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", digest.sha256_hex "abc")
  end)
end)

-- https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html and sigv4-query-string-auth.html
describe("AWS's examples for S3", function()
  local EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  local function credential()
    return { access_key_id = "AKIAIOSFODNN7EXAMPLE", secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" }
  end
  local function request(method, path, query, payload, more)
    local headers = { { "host", "examplebucket.s3.amazonaws.com" }, { "x-amz-content-sha256", payload }, { "x-amz-date", "20130524T000000Z" } }
    for _, header in ipairs(more or {}) do
      headers[#headers + 1] = header
    end
    return { method = method, path = assert(sigv4.path(path)), query = sigv4.query(assert(sigv4.parameters(query))), headers = headers, payload = payload,
      at = "20130524T000000Z", region = "us-east-1", service = "s3" }
  end
  local function signature(r)
    return (sigv4.authorization(credential(), r):match("Signature=(%x+)$"))
  end

  it("gets an object", function()
    local r = request("GET", "/test.txt", "", EMPTY, { { "range", "bytes=0-9" } })
    assert.equal("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, " ..
      "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41", sigv4.authorization(credential(), r))
  end)

  it("puts an object", function()
    assert.equal("98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd", signature(request("PUT", "/test$file.text", "",
      "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
      { { "date", "Fri, 24 May 2013 00:00:00 GMT" }, { "x-amz-storage-class", "REDUCED_REDUNDANCY" } })))
  end)

  it("gets a bucket's lifecycle", function()
    assert.equal("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543", signature(request("GET", "/", "lifecycle", EMPTY)))
  end)

  it("lists a bucket", function()
    assert.equal("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7", signature(request("GET", "/", "prefix=J&max-keys=2", EMPTY)))
  end)

  it("presigns", function()
    local r = request("GET", "/test.txt", "", "UNSIGNED-PAYLOAD")
    r.headers, r.parameters, r.expires = { { "host", "examplebucket.s3.amazonaws.com" } }, {}, 86400
    assert.equal("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&" ..
      "X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
      sigv4.presigned(credential(), r))
  end)

  it("keeps the derived key until the day, region or service changes", function()
    local c = credential()
    local r = request("GET", "/test.txt", "", EMPTY, { { "range", "bytes=0-9" } })
    sigv4.authorization(c, r)
    local first = c.derived
    sigv4.authorization(c, request("GET", "/", "", EMPTY))
    assert.equal(first, c.derived)
    for name, value in pairs { at = "20130525T000000Z", region = "eu-west-1", service = "sts" } do
      local other = request("GET", "/", "", EMPTY)
      other[name] = value
      local kept = sigv4.authorization(c, other)
      assert.equal(kept, sigv4.authorization(credential(), other))
      assert.not_equal(first.scope, c.derived.scope)
    end
  end)
end)

describe("canonical forms", function()
  it("escapes paths once", function()
    for raw, want in pairs {
      ["/"] = "/", ["/a/b~c-d_e.f"] = "/a/b~c-d_e.f", ["/a b"] = "/a%20b", ["/a+b"] = "/a%2Bb", ["/a%2bb"] = "/a%2Bb", ["/a%20b"] = "/a%20b", ["/a%2520b"] = "/a%2520b",
      ["/%7e"] = "/~", ["/\195\188"] = "/%C3%BC", ["/a%2Fb"] = "/a/b", ["/...,/..a"] = "/...%2C/..a", ["/a?b"] = "/a%3Fb", ["/dir/"] = "/dir/", ["/a=b&c"] = "/a%3Db%26c",
    } do
      assert.equal(want, sigv4.path(raw))
    end
  end)

  it("refuses paths that servers don't agree on", function()
    for _, raw in ipairs { "", "a", "/a//b", "/a%2F%2fb", "/.", "/..", "/./a", "/a/../b", "/a%2F..%2Fb", "/a/%2e%2e", "/a/.%2E/", "/%", "/%2", "/%zz", "/%%41", "/a%00", "/a%0d", "/a%7F", "/\n" } do
      local got, err = sigv4.path(raw)
      assert.is_nil(got, raw)
      assert.is_string(err)
    end
  end)

  it("sorts queries by escaped name, then value", function()
    for raw, want in pairs {
      [""] = "", ["&&"] = "", ["a"] = "a=", ["b=2&a=1"] = "a=1&b=2", ["a=2&a=1&a"] = "a=&a=1&a=2", ["a+b=c+d"] = "a%20b=c%20d", ["a%2Bb=%2f"] = "a%2Bb=%2F",
      ["a=b=c"] = "a=b%3Dc", ["ab=1&a=2&a-b=3"] = "a=2&a-b=3&ab=1", ["x;y=1"] = "x%3By=1", ["uploadId=x&partNumber=1"] = "partNumber=1&uploadId=x", ["=v"] = "=v",
      ["%C3%BC=1&z=1&Z=1"] = "%C3%BC=1&Z=1&z=1",
    } do
      assert.equal(want, sigv4.query(assert(sigv4.parameters(raw))))
    end
    for _, raw in ipairs { "%", "a=%", "a=%2", "%zz=1", "a=%%41" } do
      assert.is_nil(sigv4.parameters(raw))
    end
  end)

  it("trims and folds values of headers", function()
    local lines, names = sigv4.headers { { "x-amz-b", "  a   b\tc " }, { "x-amz-a", "" }, { "host", "h" } }
    assert.equal("host:h\nx-amz-a:\nx-amz-b:a b c\n", lines)
    assert.equal("host;x-amz-a;x-amz-b", names)
  end)
end)
