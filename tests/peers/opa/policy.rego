# What the tests' authorizer lets pass. Written as for the Open Policy Agent's Envoy plugin.
package envoy.authz

import rego.v1

default allow := false

request := input.attributes.request.http

# Reading is for everybody who has said which team asks.
allow := {
	"allowed": true,
	"headers": {"x-team": team, "x-decided-by": "opa"},
	"request_headers_to_remove": ["x-secret"],
	"response_headers_to_add": {"x-policy": "reading"},
} if {
	request.method == "GET"
	not startswith(request.path, "/private")
	not startswith(request.path, "/broken")
}

# Writing is for those whose text says an amount below the limit.
allow if {
	request.method == "POST"
	input.parsed_body.amount < 1000
}

# Bytes pass for the one identity that the policy knows.
allow if {
	not request
	endswith(input.attributes.source.principal, "/sa/batch")
}

# What is private is refused with a word of why.
allow := {
	"allowed": false,
	"http_status": 401,
	"headers": {"www-authenticate": "Basic realm=\"private\"", "x-policy": "private"},
	"body": "this is private",
} if {
	startswith(request.path, "/private")
}

team := request.headers["x-asking-team"]

team := "nobody" if {
	not request.headers["x-asking-team"]
}
