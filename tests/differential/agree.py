#!/usr/bin/env python3
"""agree.py --bartizan BINARY --envoy BINARY [--seed N] [--cases N] [--requests N]: gives the same random policies and random
requests to bartizan and to Envoy and compares what becomes of each request: 200, 401 or 403, and the path that the
application is sent. Differences that are meant are listed in INTENDED, each with its reason; each must be met.

Both proxies run on loopback with the same certificates; the program ends what it started."""
import argparse
import base64
import contextlib
import datetime
import json
import pathlib
import random
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import policies
from policies import IDENTITIES, ISSUERS, T, TRUST

SNI_NAME = "svc.mesh.test"
MODES = {"NONE": {}, "BASE": {"normalize_path": True}, "MERGE_SLASHES": {"normalize_path": True, "merge_slashes": True},
         "DECODE_AND_MERGE_SLASHES": {"normalize_path": True, "merge_slashes": True, "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"}}


# ---- identities and tokens

def certificates(folder):
    now = datetime.datetime.now(datetime.timezone.utc)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "differential")])

    def make(subject, key, issuer_key, extensions):
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(minutes=5)).not_valid_after(now + datetime.timedelta(hours=2))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(issuer_key, hashes.SHA256())

    def usage(**on):
        return x509.KeyUsage(**{name: on.get(name, False) for name in ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")})

    ca = make(ca_name, ca_key, ca_key, [(x509.BasicConstraints(True, None), True), (usage(key_cert_sign=True, crl_sign=True), True)])
    write(folder / "ca.pem", ca)
    for name, identity in [("server", f"{TRUST}/ns/default/sa/server"), *((f"client{at}", identity) for at, identity in enumerate(IDENTITIES))]:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = make(x509.Name([]), key, ca_key, [
            (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{identity}")]), True), (x509.BasicConstraints(False, None), True),
            (usage(digital_signature=True), True), (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False)])
        write(folder / f"{name}.pem", leaf)
        (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def write(path, certificate):
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Keys, and tokens by them."""

    def __init__(self):
        self.rsa, self.other, self.ec = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
        numbers, point = self.rsa.public_key().public_numbers(), self.ec.public_key().public_numbers()
        self.jwks = json.dumps({"keys": [
            {"kty": "RSA", "kid": "r", "alg": "RS256", "use": "sig", "n": b64(numbers.n.to_bytes(256, "big")), "e": "AQAB"},
            {"kty": "EC", "kid": "e", "crv": "P-256", "alg": "ES256", "use": "sig", "x": b64(point.x.to_bytes(32, "big")), "y": b64(point.y.to_bytes(32, "big"))}]})

    def token(self, claims, alg="RS256", kid="r", key=None, header=None):
        head = b64(json.dumps({"alg": alg, "typ": "JWT", **({"kid": kid} if kid else {}), **(header or {})}).encode())
        signed = f"{head}.{b64(json.dumps(claims).encode())}"
        if alg == "ES256":
            r, s = utils.decode_dss_signature(self.ec.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
            signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        elif alg == "none":
            signature = b""
        else:
            signature = (key or self.rsa).sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{b64(signature)}"

    def tokens(self):
        """What a request may carry: where it is put, and the token."""
        now = int(time.time())
        good = {"iss": ISSUERS[0], "sub": "alice", "aud": "svc", "exp": now + 3600, "azp": "app", "group": ["admins", "users"], "clearance_level": "SECRET", "scope": "read write", "realm": {"name": "a"}, "level": 7, "flag": True}
        second = {"iss": ISSUERS[1], "sub": "bob", "aud": ["other", "svc"], "exp": now + 3600, "group": "users", "clearance_level": "TOP_SECRET", "realm": {"name": "b"}}
        without = lambda claims, *names: {name: value for name, value in claims.items() if name not in names}
        first, header, query = ("authorization", "Bearer "), ("x-token", ""), ("?access_token", "")
        tokens = [(place, self.token(claims, **more)) for place, claims, more in [
            (first, good, {}), (first, good, {}), (first, good, {}), (query, good, {}), (first, good, {"alg": "ES256", "kid": "e"}), (first, good, {"kid": None}),
            (first, {**good, "sub": "alan", "group": "admins", "scope": "write"}, {}), (first, {**good, "aud": ["x", "svc"], "clearance_level": "secret", "azp": "tool"}, {}),
            (first, without(good, "sub"), {}), (first, without(good, "group", "clearance_level", "azp"), {}), (first, {**good, "clearance_level": ["SECRET"], "group": [1, "users"]}, {}),
            (header, second, {}), (header, second, {}), (header, {**second, "sub": "carol/x"}, {}), (header, without(second, "aud"), {}),
            # Refused, or not looked at.
            (first, {**good, "exp": now - 600}, {}), (first, {**good, "exp": now - 30}, {}), (first, {**good, "nbf": now + 600}, {}), (first, {**good, "nbf": now + 30}, {}), (first, without(good, "exp"), {}),
            (first, {**good, "aud": "other"}, {}), (first, without(good, "aud"), {}), (first, {**good, "iss": "https://else.test"}, {}), (first, second, {}), (header, good, {}),
            (first, good, {"key": self.other}), (first, good, {"kid": "e"}), (first, good, {"kid": "unknown"}), (first, good, {"alg": "none", "kid": None}), (first, good, {"alg": "HS256"}), (first, good, {"alg": "RS384"})]]
        return [*tokens, (("authorization", "bearer "), tokens[0][1]), (("authorization", "Basic "), "YTpi"), (first, "not.a.token"), (first, "x"), (first, ""), (first, tokens[0][1] + "x"), (first, tokens[0][1][:-4] + "AAAA")]


# ---- the two proxies and the application behind them

def origin():
    """Answers each request with the target and the headers that it got."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)

    def serve(connection):
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            while line := lines.readline():
                headers = []
                while (header := lines.readline()) not in (b"\r\n", b""):
                    headers.append(header.decode("latin1").rstrip("\r\n").lower())
                body = json.dumps({"target": line.decode("latin1").split(" ")[1], "headers": headers}).encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return "127.0.0.1:%d" % listener.getsockname()[1]


def address(text):
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def envoy_bootstrap(folder, listen, to, cases, jwks, mode):
    filters = ([policies.envoy_jwt(jwks)] if jwks else []) + [policies.envoy_rbac("DENY", cases), policies.envoy_rbac("ALLOW", cases),
               {"name": "envoy.filters.http.router", "typed_config": {"@type": T + "extensions.filters.http.router.v3.Router"}}]
    manager = {"@type": T + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "in", "http_filters": filters, "use_remote_address": False, **MODES[mode],
               "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin"}}]}]}}
    tls = {"@type": T + "extensions.transport_sockets.tls.v3.DownstreamTlsContext", "require_client_certificate": True, "common_tls_context": {
        "tls_certificates": [{"certificate_chain": {"filename": str(folder / "server.pem")}, "private_key": {"filename": str(folder / "server.key")}}],
        "validation_context": {"trusted_ca": {"filename": str(folder / "ca.pem")}}, "alpn_protocols": ["http/1.1"]}}
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}], "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls}}
    # The server name is a fact for policies only when something has looked for it.
    inspector = {"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": T + "extensions.filters.listener.tls_inspector.v3.TlsInspector"}}
    return {"node": {"id": "differential", "cluster": "differential"}, "static_resources": {
        "listeners": [{"name": "in", "address": address(listen), "listener_filters": [inspector], "filter_chains": [chain]}],
        "clusters": [{"name": "origin", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(to)}}]}]}}]}}


def bartizan_documents(folder, listen, to, cases, jwks, mode):
    proxy = {"apiVersion": "bartizan.dev/v1alpha1", "kind": "StaticProxy", "metadata": {"name": "server", "namespace": "default"}, "spec": {
        "identity": f"spiffe://{TRUST}/ns/default/sa/server", "certificate": str(folder / "server.pem"), "key": str(folder / "server.key"), "trustBundle": str(folder / "ca.pem"), "workers": 1,
        "inbound": [{"listen": listen, "protocol": "AUTO", "mtls": "STRICT", "to": to}]}}
    mesh = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": f"pathNormalization:\n  normalization: {mode}\n"}}
    return [proxy, mesh, *policies.documents(cases, jwks, int(listen.rpartition(":")[2]))]


def free_port():
    """A port that is free on both addresses."""
    while True:
        with socket.create_server(("127.0.0.2", 0)) as one:
            port = one.getsockname()[1]
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.3", port)):
                return port


class Client:
    """One kept connection for each identity."""

    def __init__(self, folder, where):
        self.folder, self.where, self.connections, self.contexts = folder, where, {}, {}

    def connect(self, identity):
        if identity not in self.contexts:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_REQUIRED
            context.load_verify_locations(self.folder / "ca.pem")
            name = self.folder / f"client{IDENTITIES.index(identity)}"
            context.load_cert_chain(f"{name}.pem", f"{name}.key")
            # A peer of the mesh, as Istio's sidecars say it.
            context.set_alpn_protocols(["http/1.1"])
            self.contexts[identity] = context
        host, _, port = self.where.rpartition(":")
        connection = self.contexts[identity].wrap_socket(socket.create_connection((host, int(port)), timeout=10), server_hostname=SNI_NAME)
        return connection, connection.makefile("rb")

    def send(self, request):
        """The status, and what the application says it got."""
        data = wire(request)
        for attempt in (0, 1):
            kept = self.connections.pop(request["identity"], None)
            connection, lines = kept or self.connect(request["identity"])
            try:
                connection.sendall(data)
                answer = self.read(lines)
            except (OSError, ValueError) as error:
                connection.close()
                if kept and not attempt:
                    continue  # it may have been closed since
                return None, str(error), {}
            status, headers, body = answer
            if headers.get("connection") == "close":
                connection.close()
            else:
                self.connections[request["identity"]] = connection, lines
            return status, body, headers
        return None, "", {}

    @staticmethod
    def read(lines):
        start = lines.readline()
        if not start:
            raise ValueError("closed")
        headers = {}
        while (line := lines.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin1").partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(lines.readline(), 16):
                body += lines.read(size)
                lines.readline()
            lines.readline()
        else:
            body = lines.read(int(headers.get("content-length", 0)))
        return int(start.split()[1]), headers, body.decode("latin1")


def wire(request):
    target, headers = request["target"], [("host", request["host"]), ("x-case", str(request["case"])), *request["headers"]]
    if "token" in request:
        (place, prefix), token = request["token"]
        if place.startswith("?"):
            path, question, query = target.partition("?")
            target = f"{path}?{query + '&' if question else ''}{place[1:]}={token}"
        else:
            headers.append((place, prefix + token))
    lines = [f"{request['method']} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "content-length: 0", "", ""]
    return "\r\n".join(lines).encode("latin1")


# ---- what may differ, and why

def repeats(request):
    names = [name for name, _ in request["headers"]]
    return any(names.count(name) > 1 for name, _ in policies.HEADERS)


# Each of them refuses what Envoy lets through or refuses, never the other way round.
INTENDED = {
    "a header in several lines: every line has to match an ALLOW rule, and Envoy is content with one": lambda request, mine, envoys: repeats(request) and mine[0] == 403 and envoys[0] == 200,
    "a path that is refused for its form is refused after the token, with the token's status": lambda request, mine, envoys: mine[0] in (401, 403) and envoys[0] == 400,
}


def outcome(answer):
    status, body, _ = answer
    if status == 200:
        return 200, json.loads(body)["target"].partition("?")[0]
    return status, None


def shown(token):
    try:
        return [json.loads(base64.urlsafe_b64decode(part + "===")) for part in token.split(".")[:2]]
    except ValueError:
        return token[:40]


def run_mode(arguments, folder, mode, issuer, seed):
    draw = policies.Draw(random.Random(seed))
    port = free_port()
    policies.PORTS[0] = str(port)
    cases = [draw.case(issuer is not None) for _ in range(arguments.cases)]
    tokens = issuer.tokens() if issuer else None
    requests = [draw.request(case, True, tokens) for case in range(arguments.cases) for _ in range(arguments.requests)]
    jwks = issuer.jwks if issuer else None
    to = origin()
    ours, theirs = f"127.0.0.2:{port}", f"127.0.0.3:{port}"
    documents = folder / f"documents-{mode}"
    documents.mkdir()
    (documents / "all.yaml").write_text("\n---\n".join(json.dumps(document, indent=1) for document in bartizan_documents(folder, ours, to, cases, jwks, mode)))
    (folder / f"envoy-{mode}.json").write_text(json.dumps(envoy_bootstrap(folder, theirs, to, cases, jwks, mode)))
    started = []
    try:
        for name, command in [("bartizan", [arguments.bartizan, "proxy", "--static", documents, "--trust-domain", TRUST, "--profile", "istio"]),
                              ("envoy", [arguments.envoy, "-c", folder / f"envoy-{mode}.json", "--disable-hot-restart", "--log-level", "warning", "--concurrency", "1"])]:
            log = open(folder / f"{name}-{mode}.log", "wb")
            started.append((name, subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)))
        for where, (name, process) in zip((ours, theirs), started):
            wait(where, process, folder / f"{name}-{mode}.log")
        clients = Client(folder, ours), Client(folder, theirs)
        different, counts, intended = [], {}, {}
        for request in requests:
            answers = [client.send(request) for client in clients]
            mine, envoys = (outcome(answer) for answer in answers)
            counts[mine[0]] = counts.get(mine[0], 0) + 1
            if mine == envoys:
                continue
            reason = next((name for name, is_meant in INTENDED.items() if is_meant(request, mine, envoys)), None)
            if reason:
                intended[reason] = intended.get(reason, 0) + 1
            else:
                different.append((request, mine, envoys, answers))
        for request, mine, envoys, answers in different[:arguments.show]:
            if "token" in request:  # its claims say more than its bytes
                request = {**request, "token": [request["token"][0], shown(request["token"][1])]}
            print(f"DIFFERENT {mode}: bartizan {mine}, Envoy {envoys}\n  request {json.dumps(request)}\n  policies {json.dumps(cases[request['case']])}\n  answers {answers[0][1][:200]!r} {answers[1][1][:200]!r}")
        print(f"{mode}, tokens {issuer is not None}, seed {seed}: {len(requests)} requests under {arguments.cases} random sets of policies, {counts}, different {len(different)}, intended {intended}", flush=True)
        return len(different), counts, intended
    finally:
        for _, process in started:
            process.terminate()
        for _, process in started:
            process.wait(timeout=10)


def wait(where, process, log):
    host, _, port = where.rpartition(":")
    for _ in range(1500):
        if process.poll() is not None:
            raise SystemExit(f"{log.name} ended:\n{log.read_text()[-4000:]}")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.02)
    raise SystemExit(f"{log.name} does not listen:\n{log.read_text()[-4000:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bartizan", required=True)
    parser.add_argument("--envoy", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--show", type=int, default=5)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--no-tokens", action="store_true")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="differential"))
    failed, met = 0, {}
    try:
        certificates(folder)
        issuer = None if arguments.no_tokens else Issuer()
        for at, mode in enumerate(arguments.modes.split(",")):
            different, counts, intended = run_mode(arguments, folder, mode, issuer, arguments.seed + at)
            failed += different
            for reason, count in intended.items():
                met[reason] = met.get(reason, 0) + count
            # A run in which nearly everything is refused, or nothing is, would show nothing.
            wanted = (200, 403) if issuer is None else (200, 401, 403)
            if any(counts.get(status, 0) * 20 < sum(counts.values()) for status in wanted):
                print(f"{mode}: too few of one outcome to show anything: {counts}")
                failed += 1
        print("intended differences met:", json.dumps(met))
        for reason in INTENDED:
            if reason not in met and arguments.cases * arguments.requests >= 1500:
                print("never met, so it should not be listed:", reason)
                failed += 1
    finally:
        if arguments.keep:
            print("kept", folder)
        else:
            shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
