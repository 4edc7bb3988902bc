# Registers this pod's identity as a client of Keycloak, and stays.
umask 027
# Where the MCP server waits for this container, it waits for that file: until there is a client, or for a bounded
# time, since without Keycloak a server without a client is better than none.
started() { touch /shared/.started-once; }
(trap 'kill "$!" 2>/dev/null; exit' TERM; sleep 120 & wait "$!"; started) & timer=$!
trap 'kill "$timer" "$!" 2>/dev/null; exit 0' TERM INT
pause() { sleep "$1" & wait "$!"; }
say() { echo "client registration: $*" >&2; }
missing=
for name in KEYCLOAK_URL KEYCLOAK_REALM KEYCLOAK_ADMIN_USERNAME KEYCLOAK_ADMIN_PASSWORD; do
  eval "value=\${$name:-}"
  [ -n "$value" ] || missing="$missing $name"
done
if [ -n "$missing" ]; then
  started
  # The pod goes on without a client. Once in a while the container starts again, with what is set then.
  for minute in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    say "no client is registered, because these are not set:$missing"
    pause 60
  done
  exit 1
fi
[ -s /opt/jwt_svid.token ] || say "waiting for /opt/jwt_svid.token"
until [ -s /opt/jwt_svid.token ]; do pause 1; done
# Standard input becomes the file $1, all of it or nothing.
keep() { cat > "$1.new" && [ -s "$1.new" ] && chmod 640 "$1.new" && mv -f "$1.new" "$1"; }
subject='import base64, json, sys
part = sys.stdin.read().split(".")[1]
print(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))["sub"], end="")'
register() {
  : > /shared/.started
  python client_registration.py || return 1
  python -c "$subject" < /opt/jwt_svid.token | keep /shared/client-id.txt || return 1
  # Which of the two files the program writes depends on its age.
  if [ ! -s /shared/secret.txt ] || [ /shared/.started -nt /shared/secret.txt ]; then
    keep /shared/secret.txt < /shared/client-secret.txt
  else
    keep /shared/client-secret.txt < /shared/secret.txt
  fi
}
# Longer and longer, so that a wrong password does not lock the administrator out.
delay=5
until register; do
  say "not registered; trying again in $delay s"
  pause "$delay"
  delay=$((delay * 2))
  [ "$delay" -le 300 ] || delay=300
done
started
say "registered"
while :; do pause 60; done
