"""Prints the documents of one side of a bartizan pair, the same work as envoy_config.py gives Envoy.
bartizan_documents.py client|server ARGS CLIENT_ADDR SERVER_ADDR ORIGIN_ADDR CERTS CLIENT_ID SERVER_ID RUN"""
import json
import sys

side, args, client_addr, server_addr, origin_addr, certs, client_id, server_id, run = sys.argv[1:10]
opt = dict(a.partition("=")[::2] for a in args.split(",") if a)
protocol = "TCP" if "l4" in opt else "AUTO"
documents = [{
    "apiVersion": "bartizan.dev/v1alpha1", "kind": "StaticProxy", "metadata": {"name": side, "namespace": "default"},
    "spec": {
        "identity": client_id if side == "client" else server_id,
        "certificate": f"{certs}/{side}.pem", "key": f"{certs}/{side}.key", "trustBundle": f"{certs}/ca.pem",
        "workers": 1, **({} if "nolog" in opt else {"accessLog": f"{run}/{side}-access.log"}),
        **({"outbound": [{"listen": client_addr, "protocol": protocol, "endpoints": [{"address": server_addr, "identity": server_id}]}]}
           if side == "client" else {"inbound": [{"listen": server_addr, "protocol": protocol, "mtls": "STRICT", "to": origin_addr}]}),
    }}]
if side == "server":
    principal = client_id.removeprefix("spiffe://")
    rules = [{"from": [{"source": {"principals": [f"bench.local/ns/n{i}/sa/s{i}"]}}], "to": [{"operation": {"methods": ["GET", "POST"], "paths": [f"/svc{i}/*"]}}]}
             for i in range(int(opt.get("rbac", 1)) - 1)]
    one = {"from": [{"source": {"principals": [principal]}}]}
    if "l4" not in opt:
        one["to"] = [{"operation": {"methods": ["GET", "POST"], "paths": ["/*"]}}]
    rules.append(one)
    # A policy has at most 512 rules.
    for at in range(0, len(rules), 500):
        documents.append({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": f"p{at}", "namespace": "default"},
                          "spec": {"action": "ALLOW", "rules": rules[at:at + 500]}})
    if "jwt" in opt:
        documents.append({"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", "metadata": {"name": "users", "namespace": "default"},
                          "spec": {"jwtRules": [{"issuer": "bench", "audiences": ["svc"], "forwardOriginalToken": True, "jwks": open(f"{certs}/jwks.json").read()}]}})
print("\n---\n".join(json.dumps(d) for d in documents))
