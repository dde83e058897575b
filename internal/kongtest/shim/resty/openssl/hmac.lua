-- Debian's luaossl has the same calls.
return require "openssl.hmac"
