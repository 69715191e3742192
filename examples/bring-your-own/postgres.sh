#!/bin/sh
# Does what the image's entry point does: makes the database on the first start, then becomes the server.
set -eu
for folder in /usr/lib/postgresql/*/bin; do PATH="$folder:$PATH"; done
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  printf '%s' "$POSTGRES_PASSWORD" > /tmp/password
  initdb --pgdata="$PGDATA" --username=postgres --pwfile=/tmp/password --auth-host=scram-sha-256 --no-sync > /dev/null
  rm /tmp/password
  # The caller's own address is its proxy's here; who may connect is the mesh's decision, made before.
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  printf '%s\n' "$(cat /etc/schema/schema.sql)" | postgres --single -D "$PGDATA" -j postgres > /dev/null
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off
