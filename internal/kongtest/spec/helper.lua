-- What nginx brings by itself: its OpenSSL, and the name under which the plugin is installed.
require("ffi").load("libcrypto.so.3", true)
