# What the demos have in common. Sourced; $work, once set, is removed at the end, and all of pids are ended.
bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' off=$'\e[0m'
[ -t 1 ] || bold='' green='' red='' off=''
step() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }
ok() { printf '  %sok%s  %s\n' "$green" "$off" "$*"; }
fail() {
  printf '  %sFAILED%s  %s\n' "$red" "$off" "$*"
  for log in broker minio kong/error vault redis; do
    [ -f "$work/$log.log" ] && { echo "--- the last of $log.log"; tail -n 15 "$work/$log.log"; }
  done
  exit 1
}

work=$(mktemp -d)
pids=()
finish() {
  for pid in "${pids[@]:-}"; do [ -n "$pid" ] && kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}
wait_for() { # DESCRIPTION COMMAND...
  local what=$1 deadline=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || fail "$what did not come up within a minute"
    sleep 0.2
  done
  ok "$what"
}
