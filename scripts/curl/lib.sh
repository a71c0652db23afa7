# What the curl scripts share. Sourced, with bash; needs curl alone.
# shellcheck shell=bash
#
#   RELAY        where the relay answers      (http://127.0.0.1:8091)
#   RELAY_NAME   the name that devices sign   (localhost)
#   DEVICE       the example program `device` (cargo run -q --example device --)

RELAY=${RELAY:-http://127.0.0.1:8091}
RELAY_NAME=${RELAY_NAME:-localhost}
read -ra device_program <<<"${DEVICE:-cargo run -q --example device --}"

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

step() {
    printf '\n== %s\n' "$*"
}

# Makes keys, signs, and prints the bodies of requests: the relay has no code for any of it.
device() {
    "${device_program[@]}" "$@"
}

# A random UUID, version 4.
uuid() {
    local hex
    hex=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    printf '%s-%s-4%s-a%s-%s' "${hex:0:8}" "${hex:8:4}" "${hex:13:3}" "${hex:17:3}" "${hex:20:12}"
}

# field NAME: the first text, number or word of that name in the JSON on standard input.
field() {
    grep -oE "\"$1\":(\"[^\"]*\"|[^,}\"]+)" | sed -nE '1{s/^"[^"]*":"?//; s/"$//; p}'
}

# call STATUS METHOD PATH [TOKEN] [BODY]: calls the relay, prints the answer's body, which it leaves in $answer too, and fails
# unless the status is STATUS.
# Body and token go through pipes: the arguments of a program are everybody's to see.
call() {
    local expected=$1 method=$2 path=$3 token=${4:-} body=${5:-} status
    local arguments=(-sS -X "$method" -w '\n%{http_code}' -H 'content-type: application/json')
    if [[ -n $token ]]; then arguments+=(-H @/dev/fd/3); fi
    if [[ -n $body ]]; then arguments+=(--data-binary @-); fi
    answer=$(curl "${arguments[@]}" "$RELAY$path" <<<"$body" 3<<<"authorization: Bearer $token") || fail "$method $path: no answer"
    status=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    [[ $status == "$expected" ]] || fail "$method $path: $status instead of $expected: $answer"
    printf '%s\n' "$answer"
}

# soon STATUS METHOD PATH [TOKEN] [BODY]: like call, but asks again for a while. Where several nodes answer, what was ended on
# one of them ends on the others within a second.
soon() {
    local try
    for try in {1..20}; do
        if answer=$(call "$@" 2>/dev/null); then
            printf '%s\n' "$answer"
            return 0
        fi
        sleep "0.$((try % 3 + 1))"
    done
    call "$@"
}

# log_in FOLDER USER DEVICE_ID: a session for a registered device; prints the tokens.
log_in() {
    local challenge body
    challenge=$(call 200 POST /api/v1/auth/challenge "" "{\"user_id\":\"$2\",\"device_id\":\"$3\"}" | field challenge)
    body=$(device answer --relay-name "$RELAY_NAME" --out "$1" --challenge "$challenge")
    call 200 POST /api/v1/auth/token "" "$body"
}
