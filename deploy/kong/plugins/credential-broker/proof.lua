-- How Kong proves itself to the broker, as any workload does: with a token that the platform keeps fresh, or with a certificate.

local cjson = require "cjson.safe"
local http = require "resty.http"
local ssl = require "ngx.ssl"

local _M = {}

-- As much as a token or a PEM file may have.
local MAX_BYTES = 64 * 1024

local function read(path)
  local file, err = io.open(path, "rb")
  if not file then
    return nil, err
  end
  local text = file:read(MAX_BYTES)
  file:close()
  if not text or text == "" then
    return nil, path .. " is empty"
  end
  return text
end

local function ask(conf, url, header)
  local client = http.new()
  client:set_timeout(conf.timeout)
  local answer, err = client:request_uri(url, { method = "GET", headers = header })
  if not answer then
    return nil, "the metadata service: " .. err
  end
  if answer.status ~= 200 then
    return nil, "the metadata service says " .. answer.status
  end
  return answer.body
end

local tokens = {
  token_file = function(conf)
    return read(conf.token_file)
  end,
  -- https://cloud.google.com/compute/docs/instances/verifying-instance-identity
  gcp = function(conf)
    return ask(conf, "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/identity?format=full&audience=" ..
      ngx.escape_uri(conf.audience), { ["Metadata-Flavor"] = "Google" })
  end,
  -- https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
  azure = function(conf)
    local body, err = ask(conf, "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=" ..
      ngx.escape_uri(conf.audience), { Metadata = "true" })
    local answer = body and cjson.decode(body)
    if type(answer) ~= "table" or type(answer.access_token) ~= "string" then
      return nil, err or "the metadata service gives no access_token"
    end
    return answer.access_token
  end,
}

-- add puts the proof into the options of a request (resty.http's request_uri); what is wrong, if it can't.
function _M.add(conf, options)
  if conf.proof == "certificate" then
    local chain, err = read(conf.certificate_file)
    local key
    if chain then
      key, err = read(conf.key_file)
    end
    if not key then
      return err
    end
    options.ssl_client_cert, err = ssl.parse_pem_cert(chain)
    if not options.ssl_client_cert then
      return conf.certificate_file .. ": " .. err
    end
    options.keepalive = false -- a connection is its certificate's: nobody else, and no certificate after this one, may go on with it
    options.ssl_client_priv_key, err = ssl.parse_pem_priv_key(key)
    if not options.ssl_client_priv_key then
      return conf.key_file .. ": " .. err
    end
    return nil
  end
  local token, err = tokens[conf.proof](conf)
  if not token then
    return err
  end
  options.headers["Authorization"] = "Bearer " .. token:gsub("%s+$", "")
  return nil
end

return _M
