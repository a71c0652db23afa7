# What scripts/backup and scripts/restore share. A backup is a tar of
#
#   manifest        NAME=value lines: format, engine, schema, relay, and of Postgres its major version
#   store.dump      Postgres: what pg_dump wrote (custom format)
#   restante.db     embedded: the database
#   master.key      embedded: the master secret, unless it is configured
#   SHA256SUMS      the digests of all of these
#
# shellcheck shell=bash

readonly ARCHIVE_FORMAT=1
self=${0##*/}
relay=""
file=""
settings_file=""
pg_bin=""

fail() {
    printf 'scripts/%s: %s\n' "$self" "$*" >&2
    exit 1
}

say() {
    printf '%s\n' "$*"
}

# read_arguments ARGUMENT…: sets file, and settings_file if one is named.
read_arguments() {
    if [[ ${1:-} == --config ]]; then
        settings_file=${2:-}
        [[ -f $settings_file ]] || fail "there is no file $settings_file"
        shift 2
    fi
    [[ $# == 1 && $1 != -* ]] || fail "usage: scripts/$self [--config SETTINGS] FILE"
    file=$1
}

# as_relay ARGUMENT…: the relay's program, with the settings that are meant.
as_relay() {
    "$relay" ${settings_file:+--config "$settings_file"} "$@"
}

# setting NAME: its value as the relay takes it. To be assigned, so that a fault ends the script.
setting() {
    as_relay config value "$1" || fail "$1 cannot be read"
}

# The relay's program: RESTANTE, else from PATH, else what was built here.
find_relay() {
    local root candidate
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
    for candidate in "${RESTANTE:-}" "$(command -v restante || true)" "$root/target/release/restante" "$root/target/debug/restante"; do
        if [[ -n $candidate && -x $candidate ]]; then
            relay=$candidate
            return 0
        fi
    done
    fail "the relay's program is not found: build it, or name it in RESTANTE"
}

# Postgres' own programs: PG_BIN, else the newest of Debian's folders, else from PATH.
find_postgres() {
    local newest
    newest=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    if [[ -n ${PG_BIN:-} ]]; then
        pg_bin=$PG_BIN
    elif [[ -x $newest/pg_dump && -x $newest/pg_restore && -x $newest/psql ]]; then
        pg_bin=$newest
    elif command -v pg_dump >/dev/null; then
        pg_bin=$(dirname "$(command -v pg_dump)")
    fi
    local tool
    for tool in pg_dump pg_restore psql; do
        [[ -n $pg_bin && -x $pg_bin/$tool ]] || fail "$tool is missing (Debian: apt install postgresql-client)"
    done
}

# connect_to URL: sets database, what Postgres' programs are told. The password goes through the environment, because
# everybody may read a command line.
connect_to() {
    database=$1
    if [[ $1 =~ ^(postgres(ql)?://[^:@/]*):([^@/]*)@(.*)$ ]]; then
        database="${BASH_REMATCH[1]}@${BASH_REMATCH[4]}"
        local password=${BASH_REMATCH[3]//\\/\\\\}
        PGPASSWORD=$(printf '%b' "${password//%/\\x}")
        export PGPASSWORD
    fi
}

ask_postgres() {
    "$pg_bin/psql" --no-psqlrc --no-password --tuples-only --no-align --set=ON_ERROR_STOP=1 --command="$1" "$database"
}

# The major version of one of Postgres' programs, of "pg_dump (PostgreSQL) 15.4 (Debian …)".
major_of_program() {
    "$pg_bin/$1" --version | sed -nE 's/^[^0-9]*\) ([0-9]+).*/\1/p'
}

major_of_server() {
    local number
    number=$(ask_postgres "SHOW server_version_num") || fail "the database cannot be asked"
    printf '%s' "$((number / 10000))"
}

require_tools() {
    local tool
    for tool in tar sha256sum sed mktemp; do
        command -v "$tool" >/dev/null || fail "$tool is missing"
    done
}
