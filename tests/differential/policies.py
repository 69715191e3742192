"""Random policies in Istio's words, random requests that come close to them, and the same policies in Envoy's words, as
Istio's control plane would render them (RBAC filters for DENY and ALLOW, `jwt_authn` for tokens)."""
import re

TRUST = "mesh.test"
IDENTITIES = ["mesh.test/ns/shop/sa/cart", "mesh.test/ns/shop/sa/cart-admin", "mesh.test/ns/shop-eu/sa/cart", "mesh.test/ns/bank/sa/teller"]
ISSUERS = ["https://issuer.test", "https://issuer.test/realms/a"]
T = "type.googleapis.com/envoy."

PRINCIPALS = ["*", *IDENTITIES, "mesh.test/ns/shop/*", "mesh.test/*", "*/sa/cart", "*/cart", "mesh.test/ns/*", "nobody.test/ns/a/sa/b", "*cart*"]
NAMESPACES = ["shop", "shop-eu", "shop*", "s*p", "bank", "*-eu"]
ACCOUNTS = ["shop/cart", "shop/cart-admin", "cart", "shop-eu/cart", "bank/teller"]
DOMAINS = ["mesh.test", "other.test", "*", "mesh*", "*.test", "nobody.test"]
BLOCKS = ["127.0.0.0/8", "127.0.0.1", "10.0.0.0/8", "192.0.2.7", "0.0.0.0/0", "198.51.100.0/24"]
HOSTS = ["svc.test", "*", "*.test", "svc.test:8080", "svc*", "SVC.Test", "other.test"]
METHODS = ["GET", "POST", "*", "P*", "*T", "DELETE"]
PATHS = ["/a", "/a/*", "/a*", "*/b", "*", "/", "/a/b", "/admin", "/admin/*", "/a/{*}", "/a/{**}", "/{*}/b", "/a/{*}/c/{**}", "/a%20b", "/a//b", "/*", "*.html"]
PORTS = ["PORT", "8080", "1"]
SNI = ["svc.mesh.test", "*", "svc*", "*.test", "none.test"]
HEADERS = [("x-a", ["1", "*", "1*", "*2", "", "12"]), ("x-b", ["yes", "no", "*"])]
REQUEST_PRINCIPALS = ["*", f"{ISSUERS[0]}/alice", f"{ISSUERS[0]}/*", "*/alice", "*alice", f"{ISSUERS[1]}/bob", f"{ISSUERS[1]}/*", "https://issuer.test*", "*/bob", f"{ISSUERS[0]}/al*"]
CLAIMS = [(["group"], ["admins", "users", "*", "ad*", "*rs", "7"]), (["clearance_level"], ["SECRET", "TOP_SECRET", "*SECRET", "secret"]), (["scope"], ["read", "write", "read write", "*"]),
          (["realm", "name"], ["a", "b", "*"]), (["level"], ["7", "*"]), (["flag"], ["true", "*"]), (["missing"], ["x", "*"])]
AUDIENCES = ["svc", "other", "*", "s*"]
PRESENTERS = ["app", "*", "a*", "tool"]

REQUEST_PATHS = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/a/b/c/d", "/x/b", "/a/x/c", "/admin", "/admin/x", "/adminx", "/a%20b", "/a//b", "/index.html", "/a?q=/admin", "/A", "/a/c/"]
TRICKS = ["/a/../admin", "/a/./b", "/a//../admin", "/a/%2e%2e/admin", "/a/%2E%2e/admin", "/%61dmin", "/%41dmin", "/a%2fb", "/a%2Fb", "/a%5cb", "/a\\b", "/admin;x", "/a/..;/admin", "/..", "/../admin", "/a/..",
          "//admin", "///admin", "/a/b/../../admin", "/a%252fb", "/%2e/admin", "/a/%2e", "/admin%20", "/admin/%2e%2e/a", "/a\\..\\admin", "/a%00", "/%7Eadmin", "/admin#x", "/a/.../b", "/.admin", "/a%2f%2e%2e%2fadmin", "/a/b%5c..%5cadmin"]


class Draw:
    """Everything that is drawn at random, from one seed."""

    def __init__(self, random):
        self.random = random

    def some(self, values, most=2):
        return [self.random.choice(values) for _ in range(self.random.randint(1, most))]

    def maybe(self, share=0.3):
        return self.random.random() < share

    def into(self, fields, name, values, share=0.3, negative=True):
        if self.maybe(share):
            fields[name] = self.some(values)
        if negative and self.maybe(share / 3):
            fields["not" + name[0].upper() + name[1:]] = self.some(values)

    def source(self, tokens):
        while True:
            source = {}
            self.into(source, "principals", PRINCIPALS)
            self.into(source, "namespaces", NAMESPACES, 0.2)
            if not source and self.maybe(0.3):
                self.into(source, "serviceAccounts", ACCOUNTS, 0.8)
            self.into(source, "trustDomains", DOMAINS, 0.1)
            self.into(source, "ipBlocks", BLOCKS, 0.15)
            self.into(source, "remoteIpBlocks", BLOCKS, 0.1)
            if tokens:
                self.into(source, "requestPrincipals", REQUEST_PRINCIPALS, 0.3)
            if source:
                return source

    def operation(self):
        while True:
            operation = {}
            self.into(operation, "hosts", HOSTS, 0.2)
            self.into(operation, "ports", PORTS, 0.1)
            self.into(operation, "methods", METHODS)
            self.into(operation, "paths", PATHS, 0.6)
            if operation:
                return operation

    def condition(self, tokens):
        kinds = ["header", "header", "source.ip", "remote.ip", "source.namespace", "source.principal", "destination.port", "connection.sni"]
        if tokens:
            kinds += ["request.auth.claims"] * 4 + ["request.auth.principal", "request.auth.audiences", "request.auth.presenter"]
        kind = self.random.choice(kinds)
        values = {"source.ip": BLOCKS, "remote.ip": BLOCKS, "source.namespace": NAMESPACES, "source.principal": PRINCIPALS, "destination.port": PORTS, "connection.sni": SNI,
                  "request.auth.principal": REQUEST_PRINCIPALS, "request.auth.audiences": AUDIENCES, "request.auth.presenter": PRESENTERS}.get(kind)
        if kind == "header":
            name, values = self.random.choice(HEADERS)
            kind, values = f"request.headers[{name}]", [value for value in values if value]
        if kind == "request.auth.claims":
            path, values = self.random.choice(CLAIMS)
            kind += "".join(f"[{part}]" for part in path)
        condition = {"key": kind}
        if self.maybe(0.75):
            condition["values"] = self.some(values)
        if "values" not in condition or self.maybe(0.15):
            condition["notValues"] = self.some(values)
        return condition

    def rule(self, tokens):
        rule = {}
        if self.maybe(0.6):
            rule["from"] = [{"source": self.source(tokens)} for _ in range(self.random.randint(1, 2))]
        if self.maybe(0.7):
            rule["to"] = [{"operation": self.operation()} for _ in range(self.random.randint(1, 2))]
        if self.maybe(0.35):
            rule["when"] = [self.condition(tokens) for _ in range(self.random.randint(1, 2))]
        return rule

    def case(self, tokens):
        """The rules of one case by action. An ALLOW that lets nearly everything in makes DENY worth a look."""
        actions = {"ALLOW": [self.rule(tokens) for _ in range(self.random.randint(1, 3))], "DENY": []}
        if self.maybe(0.5):
            actions["DENY"] = [self.rule(tokens) for _ in range(self.random.randint(1, 2))]
            if self.maybe(0.7):
                actions["ALLOW"] = [{}]
        return actions

    def request(self, case, tricks, tokens):
        request = {"case": case, "identity": self.random.choice(IDENTITIES), "method": self.random.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
                   "host": self.random.choice(["svc.test", "svc.test:8080", "other.test", "SVC.test", "a.svc.test"]),
                   "target": self.random.choice(TRICKS if tricks and self.maybe(0.5) else REQUEST_PATHS), "headers": []}
        for name, values in HEADERS:
            for _ in range(self.random.choice([0, 0, 1, 1, 2])):
                request["headers"].append((name, self.random.choice([*values, "other"]).replace("*", "z")))
        if self.maybe(0.3):
            request["headers"].append(("x-forwarded-for", self.random.choice(["192.0.2.7", "198.51.100.9, 10.1.2.3", "10.1.2.3", "192.0.2.7, 203.0.113.1"])))
        if tokens and self.maybe(0.85):
            request["token"] = self.random.choice(tokens)
        return request


# ---- what Envoy is told

def text(value, ignore_case=False):
    matcher = {"suffix": value[1:]} if value.startswith("*") else {"prefix": value[:-1]} if value.endswith("*") else {"exact": value}
    if value == "*":
        matcher = {"safe_regex": {"regex": ".+"}}
    elif ignore_case:
        matcher["ignore_case"] = True
    return matcher


def anyone(rules):
    return rules[0] if len(rules) == 1 else {"or_ids": {"ids": rules}}


def anything(rules):
    return rules[0] if len(rules) == 1 else {"or_rules": {"rules": rules}}


def authenticated(matcher):
    return {"authenticated": {"principal_name": matcher}}


def principal(value):
    if value == "*":
        return authenticated({"safe_regex": {"regex": ".+"}})
    if value.startswith("*"):
        return authenticated({"safe_regex": {"regex": "spiffe://.*" + re.escape(value[1:])}})
    return authenticated(text("spiffe://" + value))


def namespace(value):
    return authenticated({"safe_regex": {"regex": ".*/ns/" + re.escape(value).replace(r"\*", ".*") + "/.*"}})


def account(value):
    ns, _, name = value.rpartition("/")
    return authenticated({"safe_regex": {"regex": f"spiffe://.+/ns/{re.escape(ns or 'default')}/(.+/|)sa/{re.escape(name)}(/.+)?"}})


def domain(value):
    if "*" not in value:
        return authenticated({"prefix": f"spiffe://{value}/"})
    return authenticated({"safe_regex": {"regex": "spiffe://" + re.escape(value).replace(r"\*", "[^/]*") + "/.*"}})


def block(value):
    address, _, length = value.partition("/")
    return {"address_prefix": address, "prefix_len": int(length or 32)}


def metadata(path, value):
    return {"metadata": {"filter": "envoy.filters.http.jwt_authn", "path": [{"key": part} for part in ["payload", *path]], "value": value}}


def claim(path, value):
    """A text, or a list with such a text."""
    matcher = {"string_match": text(value)}
    return metadata(path, {"or_match": {"value_matchers": [matcher, {"list_match": {"one_of": matcher}}]}})


def request_principal(value):
    """`issuer/subject`, parted at the last slash."""
    present = {"string_match": {"safe_regex": {"regex": ".+"}}}
    of = lambda issuer, subject: {"and_ids": {"ids": [metadata(["iss"], issuer), metadata(["sub"], subject)]}}
    exact = lambda v: {"string_match": {"exact": v}}
    head, slash, tail = value.rpartition("/")
    if value == "*":
        return of(present, present)
    if value.startswith("*"):
        if not slash:
            return of(present, {"string_match": {"suffix": value[1:]}})
        issuer = present if head == "*" else {"string_match": {"suffix": head[1:]}}
        return of(issuer, exact(tail))
    if value.endswith("*"):
        if not slash:
            return of({"string_match": {"prefix": value[:-1]}}, present)
        subject = present if tail == "*" else {"string_match": {"prefix": tail[:-1]}}
        return of(exact(head), subject)
    return of(exact(head), exact(tail))


def header(name, value, ignore_case=False):
    matcher = {"present_match": True} if value == "*" else {"string_match": text(value, ignore_case)}
    return {"header": {"name": name, **matcher}}


def path(value):
    if "{*}" in value or "{**}" in value:
        template = value.replace("{**}", "**").replace("{*}", "*")
        return {"uri_template": {"name": "uri-template", "typed_config": {"@type": T + "extensions.path.match.uri_template.v3.UriTemplateMatchConfig", "path_template": template}}}
    return {"url_path": {"path": text(value)}}


SOURCE = {"principals": principal, "namespaces": namespace, "serviceAccounts": account, "trustDomains": domain,
          "ipBlocks": lambda v: {"direct_remote_ip": block(v)}, "remoteIpBlocks": lambda v: {"remote_ip": block(v)}, "requestPrincipals": request_principal}
OPERATION = {"hosts": lambda v: header(":authority", v, True), "ports": lambda v: {"destination_port": int(v)}, "methods": lambda v: header(":method", v), "paths": path}


def envoy_ids(fields, words):
    ids = []
    for name, render in words.items():
        negative = "not" + name[0].upper() + name[1:]
        if name in fields:
            ids.append(("ok", [render(v) for v in fields[name]]))
        if negative in fields:
            ids.append(("not", [render(v) for v in fields[negative]]))
    return ids


def envoy_when(condition):
    key, inner = condition["key"], re.findall(r"\[([^\]]*)\]", condition["key"])
    render = {"source.ip": SOURCE["ipBlocks"], "remote.ip": SOURCE["remoteIpBlocks"], "source.namespace": namespace, "source.principal": principal,
              "destination.port": OPERATION["ports"], "connection.sni": lambda v: {"requested_server_name": text(v)}, "request.auth.principal": request_principal,
              "request.auth.audiences": lambda v: claim(["aud"], v), "request.auth.presenter": lambda v: claim(["azp"], v)}.get(key)
    if key.startswith("request.headers"):
        render = lambda v: header(inner[0], v)
    if key.startswith("request.auth.claims"):
        render = lambda v: claim(inner, v)
    is_permission = key in ("destination.port", "connection.sni")
    out = []
    if "values" in condition:
        out.append(("ok", [render(v) for v in condition["values"]]))
    if "notValues" in condition:
        out.append(("not", [render(v) for v in condition["notValues"]]))
    return is_permission, out


def envoy_policy(case, rule):
    """One rule, held to the requests of its case by a header."""
    def ids(parts):
        rendered = [anyone(values) if kind == "ok" else {"not_id": anyone(values)} for kind, values in parts]
        return {"and_ids": {"ids": rendered}} if rendered else {"any": True}

    def rules(parts):
        rendered = [anything(values) if kind == "ok" else {"not_rule": anything(values)} for kind, values in parts]
        return {"and_rules": {"rules": rendered}} if rendered else {"any": True}

    id_conditions = [("ok", [header("x-case", str(case))])]
    rule_conditions = []
    for condition in rule.get("when", []):
        is_permission, parts = envoy_when(condition)
        (rule_conditions if is_permission else id_conditions).extend(parts)
    sources = [envoy_ids(entry["source"], SOURCE) for entry in rule.get("from", [])] or [[]]
    operations = [envoy_ids(entry["operation"], OPERATION) for entry in rule.get("to", [])] or [[]]
    return {"principals": [ids(parts + id_conditions) for parts in sources], "permissions": [rules(parts + rule_conditions) for parts in operations]}


def envoy_rbac(action, cases):
    policies = {f"case{case:04}-{at}": envoy_policy(case, rule) for case, actions in enumerate(cases) for at, rule in enumerate(actions[action])}
    return {"name": "envoy.filters.http.rbac", "typed_config": {"@type": T + "extensions.filters.http.rbac.v3.RBAC", "rules": {"action": action, "policies": policies}}}


def envoy_jwt(jwks):
    """Two issuers: one at the usual places, one in a header of its own, combined as Istio does."""
    places = [{"from_headers": [{"name": "authorization", "value_prefix": "Bearer "}], "from_params": ["access_token"]}, {"from_headers": [{"name": "x-token"}]}]
    providers = {f"origins-{at}": {"issuer": issuer, "local_jwks": {"inline_string": jwks}, "payload_in_metadata": "payload", "forward": True,
                                   "normalize_payload_in_metadata": {"space_delimited_claims": ["scope", "permission"]}, **places[at], **({"audiences": ["svc"]} if at == 0 else {})}
                 for at, issuer in enumerate(ISSUERS)}
    one = [{"provider_name": name} for name in providers]
    each = [{"requires_any": {"requirements": [requirement, {"allow_missing": {}}]}} for requirement in one]
    return {"name": "envoy.filters.http.jwt_authn", "typed_config": {"@type": T + "extensions.filters.http.jwt_authn.v3.JwtAuthentication", "providers": providers, "bypass_cors_preflight": True,
            "rules": [{"match": {"prefix": ""}, "requires": {"requires_any": {"requirements": [*one, {"requires_all": {"requirements": each}}]}}}]}}


# ---- what bartizan is told

def documents(cases, jwks, port):
    def held(case, rule):
        return {**rule, "when": [*rule.get("when", []), {"key": "request.headers[x-case]", "values": [str(case)]}]}
    all_documents = []
    for action in ("ALLOW", "DENY"):
        rules = [held(case, rule) for case, actions in enumerate(cases) for rule in actions[action]]
        for at in range(0, len(rules), 400):
            all_documents.append({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": f"{action.lower()}-{at}", "namespace": "default"},
                                  "spec": {"action": action, "rules": rules[at:at + 400]}})
    if jwks:
        rules = [{"issuer": ISSUERS[0], "jwks": jwks, "audiences": ["svc"], "forwardOriginalToken": True},
                 {"issuer": ISSUERS[1], "jwks": jwks, "fromHeaders": [{"name": "x-token"}], "forwardOriginalToken": True}]
        all_documents.append({"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", "metadata": {"name": "users", "namespace": "default"}, "spec": {"jwtRules": rules}})
    return all_documents
