# bartizan pair: `bartizan proxy --static` on both sides. Arguments (comma-separated): l7 (default) or l4, rbac=N, nolog.
BARTIZAN=${BARTIZAN:-$HERE/../../target/release/bartizan}
case ",$PEER_ARGS," in *,l4,*) PEER_CAPS="h1 grpc tcp" ;; esac
peer_prepare() {
  local side
  for side in client server; do
    rm -rf "$RUN/$side"; mkdir -p "$RUN/$side"
    python3 "$HERE/peers/bartizan_documents.py" $side "$PEER_ARGS" "$CLIENT_ADDR" "$SERVER_ADDR" "$ORIGIN_ADDR" "$CERTS" "$CLIENT_ID" "$SERVER_ID" "$RUN" > "$RUN/$side/documents.yaml"
  done
}
peer_start() {
  rm -f "$RUN"/*-access.log
  spawn server "$BARTIZAN" proxy --static "$RUN/server" --trust-domain bench.local
  spawn client "$BARTIZAN" proxy --static "$RUN/client" --trust-domain bench.local
}
