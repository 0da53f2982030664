#!/usr/bin/env bash
# One PostgreSQL server on loopback, without Docker. Needs bash and the server's own programs (Debian: postgresql).
#
#   server.sh start DIR [PORT]    start a server that keeps its data in DIR; prints its URL
#   server.sh stop DIR            stop it; DIR stays, and `start DIR` finds every committed row again
#   server.sh kill DIR            kill -9 the server and all its processes, as a power cut does; `start DIR` recovers
#   server.sh url DIR             print its URL
#
# Whoever can reach the port is let in as the superuser `postgres`: for tests and for one machine of one's own.
# The programs are taken from $PATH, else from the newest /usr/lib/postgresql/*/bin. The superuser of the machine may not
# run the server: root starts it as the user `postgres`, who then owns DIR.
set -euo pipefail

wait_seconds=60
account=postgres

say() { printf 'server.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

find_programs() { # prints the directory of initdb and pg_ctl
  local found
  if found=$(command -v pg_ctl) && command -v initdb >/dev/null; then
    dirname "$found"
    return
  fi
  found=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
  [[ -x $found/pg_ctl && -x $found/initdb ]] || die "no PostgreSQL server found: install it, or put initdb and pg_ctl in PATH"
  printf '%s\n' "$found"
}

as_owner() { # COMMAND...: run as the user who owns the data
  if [[ $(id -u) -eq 0 ]]; then
    runuser -u "$account" -- "$@"
  else
    "$@"
  fi
}

is_open() { # PORT: does something listen there?
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

free_port() { # prints a port below the ephemeral range on which nothing listens
  local port
  while true; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    if ! is_open "$port"; then
      printf '%s\n' "$port"
      return
    fi
  done
}

arguments_of() { # PID
  if [[ -r /proc/$1/cmdline ]]; then
    tr '\0' ' ' <"/proc/$1/cmdline"
  else
    ps -o args= -p "$1"
  fi
}

server_of() { # DIR: prints the pid of the server of DIR, if it is alive (a reused pid is not our server)
  local pid
  pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) || return 1
  [[ -n $pid && $(arguments_of "$pid" 2>/dev/null) == *" $1/data "* ]] || return 1
  printf '%s\n' "$pid"
}

absolute() { # DIR, which exists
  cd "$1" 2>/dev/null && pwd || die "no such directory: $1"
}

url() { # DIR
  local dir
  dir=$(absolute "$1")
  [[ -f $dir/port ]] || die "no server was started in $dir"
  printf 'postgresql://postgres@127.0.0.1:%s/postgres\n' "$(cat "$dir/port")"
}

lay_out() { # DIR PROGRAMS: make the data directory, once
  if [[ -f $1/data/PG_VERSION ]]; then
    return
  fi
  if [[ $(id -u) -eq 0 ]]; then
    chown "$account" "$1"
  fi
  as_owner env -C "$1" "$2/initdb" -D "$1/data" -U postgres -E UTF8 --locale=C --auth=trust >>"$1/initdb.log" 2>&1 ||
    die "initdb failed: see $1/initdb.log (every directory above $1 must let the user $account pass)"
}

start() { # DIR [PORT]
  local dir port programs settings
  programs=$(find_programs)
  mkdir -p "$1"
  dir=$(absolute "$1")
  if server_of "$dir" >/dev/null; then
    die "a server runs in $dir already, at $(url "$dir")"
  fi
  lay_out "$dir" "$programs"
  port=${2:-$(cat "$dir/port" 2>/dev/null || free_port)}
  printf '%s\n' "$port" >"$dir/port"
  # What is not said here is the server's default: fsync is on.
  settings="-p $port -c listen_addresses=127.0.0.1 -c lc_messages=C -c unix_socket_directories='$dir'"
  as_owner env -C "$dir" "$programs/pg_ctl" start -w -t "$wait_seconds" -s -D "$dir/data" -l "$dir/server.log" \
    -o "$settings" </dev/null >&2 || die "the server did not start: see $dir/server.log"
  url "$dir"
}

stop() { # DIR: the fast shutdown (sessions are ended), and the immediate one after 30 s; both lose nothing
  local dir
  dir=$(absolute "$1")
  server_of "$dir" >/dev/null || return 0
  pg_stop "$dir" fast 30 && return
  say "the server of $dir does not shut down: stopping it at once"
  pg_stop "$dir" immediate 10 || die "the server of $dir does not end: see $dir/server.log"
}

pg_stop() { # DIR MODE SECONDS
  as_owner env -C "$1" "$(find_programs)/pg_ctl" stop -w -s -D "$1/data" -m "$2" -t "$3" >&2
}

children_of() { # PID
  cat "/proc/$1/task/$1/children" 2>/dev/null || ps -o pid= --ppid "$1"
}

is_alive() { # PID: a process that has ended counts as gone even before its parent has noticed
  [[ $(ps -o stat= -p "$1" 2>/dev/null) == [!Z]* ]]
}

kill_all() { # DIR: the server first stands still, so that it starts no other process and tells none
  local dir pid child children=()
  dir=$(absolute "$1")
  pid=$(server_of "$dir") || die "no server runs in $dir"
  kill -STOP "$pid"
  read -ra children <<<"$(children_of "$pid" | tr '\n' ' ')"
  kill -KILL "$pid" "${children[@]}" 2>/dev/null || true
  for child in "$pid" "${children[@]}"; do
    for _ in $(seq 100); do
      is_alive "$child" || continue 2
      sleep 0.1
    done
    die "process $child does not end"
  done
  rm -f "$dir/data/postmaster.pid" "$dir"/.s.PGSQL.* # all are gone, though an init that is slow to reap shows the pid for a while
}

usage="usage: server.sh start DIR [PORT] | stop DIR | kill DIR | url DIR"
case "${1:-}" in
  start) [[ $# -ge 2 && $# -le 3 ]] || die "$usage"; start "$2" "${3:-}" ;;
  stop) [[ $# -eq 2 ]] || die "$usage"; stop "$2" ;;
  kill) [[ $# -eq 2 ]] || die "$usage"; kill_all "$2" ;;
  url) [[ $# -eq 2 ]] || die "$usage"; url "$2" ;;
  *) die "$usage" ;;
esac
