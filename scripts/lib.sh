# What the scripts that drive a cluster share. Source it from bash.
#
# A cluster here is five nodes whose HTTP ports are the array PORTS. Every wait
# is on a condition and has a limit.

POLL_SECONDS=0.2
# Longest that one curl may take. Longer than the timeout that a request carries.
CURL_SECONDS_MAX=15
REQUEST_TIMEOUT=10s

# wait_until SECONDS COMMAND...: true once the command succeeds.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$deadline" ]; then return 1; fi
        sleep "$POLL_SECONDS"
    done
}

port_is_free() { ! (exec 3<>"/dev/tcp/localhost/$1") 2>/dev/null; }

status_of() { curl -s -m 2 "http://localhost:$1/status"; }

# The leader's name as the node at this port sees it; empty during an election.
leader_seen_by() { status_of "$1" | sed -n 's/.*"leader": *"\([^"]*\)".*/\1/p'; }

has_leader() { [ -n "$(leader_seen_by "$1")" ]; }

# has_voters PORT COUNT
has_voters() {
    local count
    count="$(status_of "$1" | grep -o '"role": *"voter"' | wc -l)"
    [ "$count" -eq "$2" ]
}

# all_see_voters COUNT: every node of PORTS counts that many voters.
all_see_voters() {
    local port
    for port in "${PORTS[@]}"; do has_voters "$port" "$1" || return 1; done
}

# put PORT KEY VALUE: true when the write was acknowledged.
put() {
    local code
    code="$(curl -s -o /dev/null -w '%{http_code}' -m "$CURL_SECONDS_MAX" \
        -XPOST "http://localhost:$1/key?timeout=$REQUEST_TIMEOUT" -d "{\"$2\":\"$3\"}")" || return 1
    [ "$code" = 200 ]
}

# reads PORT KEY VALUE [QUERY]: true when the node answers the key with that value.
reads() {
    local answer
    answer="$(curl -s -m "$CURL_SECONDS_MAX" \
        "http://localhost:$1/key/$2?timeout=$REQUEST_TIMEOUT${4:+&$4}")" || return 1
    [ "$answer" = "{\"$2\":\"$3\"}" ]
}

reads_stale() { reads "$1" "$2" "$3" consistency=stale; }
