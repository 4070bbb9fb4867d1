#!/bin/sh
# Tells qbm-trio that a torrent has finished. Needs a POSIX shell and curl.
#
# In qBittorrent: Settings > Downloads > Run external program on torrent finished:
#
#   /path/to/qbittorrent-notification.sh "%I" "%N" "%L" "%F" %C %Z "%G" "%K"
#
# The last one, "%K", may be left out as long as no torrent is v2-only.
#
# qBittorrent passes nothing but its own environment, so what this script needs
# may also stand in /config/qbm-trio.env (see qbm-trio.env.example), or in the
# file that QBM_ENV_FILE names. The environment comes first.
#
#   QBM_URL            http://127.0.0.1:8081   where the service is, or instead
#   HTTP_HOST, HTTP_PORT                       the service's own settings
#   HTTP_API_KEY       the service's key, or instead
#   HTTP_API_KEY_FILE  a file that holds it
#   QBM_HOOK_LOG       a file to which the outcome is appended, one line a torrent
#   QBM_RETRY_PERCENT  100; less makes the waits between tries shorter (for tests)
#
# Tries for about a minute. Exit status: 0 accepted, 1 gave up, 2 set up wrongly,
# 3 refused. Otherwise than 0 the service does not know of the torrent: send it again,
# for example with the line of curl in the README.

set -u
LC_ALL=C # names are bytes, whatever the locale is
export LC_ALL
nl='
'

case ${1:-} in
-h | --help) # for a person
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

# qBittorrent before 5.2 hands its open sockets on. While this script waits, they would keep
# a restarted qBittorrent from listening on its own port. dash cannot close those above 9.
for file in "/proc/$$/fd/"*; do
    fd=${file##*/}
    if ! [ -S "$file" ] || [ "$fd" -le 2 ]; then
        continue
    elif [ "$fd" -le 9 ] || (eval "exec $fd>&-") 2>/dev/null; then
        eval "exec $fd>&-"
    elif command -v bash >/dev/null; then
        exec bash "$0" "$@"
    fi
done

# finish STATUS TEXT: say how it ended, in exactly one line, and end.
finish() {
    line=$(printf '%s qbm-trio hook: %s' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${2%"$nl"}" |
        tr '\000-\037\177' '?')
    printf '%s\n' "$line" >&2
    if [ -n "${QBM_HOOK_LOG:-}" ]; then
        { printf '%s\n' "$line" >>"$QBM_HOOK_LOG"; } 2>/dev/null || :
    fi
    exit "$1"
}

# read_settings FILE: take from it what the environment does not say. The file is
# read, never run: a key may hold any character.
read_settings() {
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line%"$cr"}
        line=${line#export }
        case $line in
        [A-Z]*=*) ;;
        *) continue ;;
        esac
        value=${line#*=}
        case $value in
        \"*\") value=${value#\"} value=${value%\"} ;;
        \'*\') value=${value#\'} value=${value%\'} ;;
        esac
        case ${line%%=*} in
        QBM_URL) : "${QBM_URL:=$value}" ;;
        HTTP_HOST) : "${HTTP_HOST:=$value}" ;;
        HTTP_PORT) : "${HTTP_PORT:=$value}" ;;
        HTTP_API_KEY) file_key=$value ;;
        HTTP_API_KEY_FILE) file_key_file=$value ;;
        QBM_HOOK_LOG) : "${QBM_HOOK_LOG:=$value}" ;;
        QBM_RETRY_PERCENT) : "${QBM_RETRY_PERCENT:=$value}" ;;
        esac
    done <"$1"
}

# pause SECONDS, times QBM_RETRY_PERCENT.
pause() {
    ms=$(($1 * 10 * QBM_RETRY_PERCENT))
    if [ $((ms % 1000)) -eq 0 ]; then
        sleep $((ms / 1000))
    else # not every sleep knows fractions, so they are used in tests only
        sleep "$((ms / 1000)).$(printf '%03d' $((ms % 1000)))"
    fi
}

# post: send the form once. Prints the headers, an empty line, the body and, in
# the last line, the status; or what went wrong, with curl's exit status.
post() {
    # The key goes through a pipe: arguments can be read by every user of the machine.
    printf 'X-API-Key: %s\n' "$key" |
        curl -q -sS -i --noproxy '*' --connect-timeout 5 --max-time 15 \
            -H @- -H 'Expect:' -w '\n%{http_code}' \
            --data-urlencode "hash=$hash" \
            --data-urlencode "name=$name" \
            --data-urlencode "category=$category" \
            --data-urlencode "content_path=$content_path" \
            --data-urlencode "num_files=$num_files" \
            --data-urlencode "size=$size" \
            --data-urlencode "tags=$tags" \
            -- "$url" 2>&1
}

# field NAME: the string of that name in the JSON answer, roughly: for people.
field() {
    printf '%s\n' "$answer" | sed -n 's/.*"'"$1"'": *"\([^"]*\)".*/\1/p' | tail -n 1
}

cr=$(printf '\r')
file_key='' file_key_file=''
settings=${QBM_ENV_FILE:-/config/qbm-trio.env}
if [ -r "$settings" ]; then
    read_settings "$settings"
elif [ -n "${QBM_ENV_FILE:-}" ] || [ -e "$settings" ]; then
    finish 2 "cannot read $settings: check that it exists and that qBittorrent's user may read it"
fi

if [ $# -lt 7 ] || [ $# -gt 8 ]; then
    usage='"%I" "%N" "%L" "%F" %C %Z "%G" "%K"'
    finish 2 "got $# arguments, not 7 or 8: in qBittorrent, after the script's name: $usage (for a person: --help)"
fi
hash=$1 name=$2 category=$3 content_path=$4 num_files=$5 size=$6 tags=$7
if [ -n "${8:-}" ]; then
    hash=$8
fi
about="torrent $hash \"$name\""
case $hash in
'' | -)
    finish 2 "\"%K\" is missing: \"$name\" is a v2 torrent and has no %I; add \"%K\" after \"%G\""
    ;;
esac

if [ -z "${HTTP_API_KEY:-}" ] && [ -z "${HTTP_API_KEY_FILE:-}" ]; then
    HTTP_API_KEY=$file_key HTTP_API_KEY_FILE=$file_key_file
fi
key=${HTTP_API_KEY:-}
if [ -z "$key" ] && [ -n "${HTTP_API_KEY_FILE:-}" ]; then
    [ -r "$HTTP_API_KEY_FILE" ] || finish 2 "cannot read $HTTP_API_KEY_FILE (HTTP_API_KEY_FILE)"
    IFS= read -r key <"$HTTP_API_KEY_FILE" || :
    key=${key%"$cr"}
fi
[ -n "$key" ] || finish 2 "no key: set HTTP_API_KEY or HTTP_API_KEY_FILE, for example in $settings"

host=${HTTP_HOST:-127.0.0.1}
case $host in
0.0.0.0) host=127.0.0.1 ;; # it listens everywhere; this is where to find it
:: | \[::\]) host='[::1]' ;;
\[*) ;;
*:*) host="[$host]" ;;
esac
url=${QBM_URL:-http://$host:${HTTP_PORT:-8081}}
url=${url%/}
url=${url%/notify/torrent-finished}/notify/torrent-finished
case $url in
*@*) finish 2 "QBM_URL cannot be used: it must not hold a user name or a password" ;;
esac

case ${QBM_RETRY_PERCENT:=100} in
*[!0-9]*) finish 2 "QBM_RETRY_PERCENT is not a whole number: $QBM_RETRY_PERCENT" ;;
esac

delay=1 left=60 tries=0
while :; do
    tries=$((tries + 1))
    answer=$(post)
    failure=$?
    status=${answer##*"$nl"}
    answer=${answer%"$nl"*}
    wait=$delay
    if [ "$failure" -ne 0 ]; then
        case $failure in
        127) finish 2 "$about: curl is missing" ;;
        1 | 2 | 3) finish 2 "$about: $url cannot be used: $answer" ;;
        esac
        why=$answer
    else
        why="status $status: $(field error)"
        case $status in
        2*)
            id=$(field queue_id)
            [ -z "$id" ] || finish 0 "accepted: $about, $(field status) as $id"
            why="status $status, but it is not qbm-trio that answers"
            ;;
        3*) finish 2 "$about: $url redirects; set QBM_URL to where it leads" ;;
        408 | 429) ;; # the service asks to send it again
        401) finish 3 "refused with 401: $about: $(field error) (HTTP_API_KEY, or $settings)" ;;
        4*) finish 3 "refused with $status: $about: $(field error)" ;;
        esac
        asked=$(printf '%s\n' "$answer" | sed "/^$cr*\$/q" | tr '[:upper:]' '[:lower:]' |
            sed -n 's/^retry-after: *\([0-9][0-9]*\).*/\1/p')
        # Not more than half of the time at once: the service may be back sooner.
        case $asked in
        '' | *[!0-9]* | ?????*) ;;
        *) wait=$((asked < 30 ? asked : 30)) ;;
        esac
        [ "$wait" -gt 0 ] || wait=1
    fi
    if [ "$left" -le 0 ]; then
        finish 1 "gave up after $tries tries: $about at $url: $why"
    fi
    [ "$wait" -le "$left" ] || wait=$left
    pause "$wait"
    left=$((left - wait))
    delay=$((delay * 2))
done
