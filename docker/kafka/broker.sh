#!/usr/bin/env bash
# One Apache Kafka broker (KRaft) on loopback, without Docker. Needs bash, java >= 17 and, for the first fetch, mvn.
#
#   broker.sh fetch               copy the jars (43 MB) into the cache; nothing to do when they are there
#   broker.sh start DIR [PORT]    start a broker that keeps its log in DIR; prints its bootstrap address
#   broker.sh stop DIR            stop it; DIR stays, and `start DIR` finds every committed message again
#   broker.sh kill DIR            kill it with SIGKILL; `start DIR` recovers its log, at the same address
#
# The cache is $SKYDELTA_KAFKA_HOME, by default ~/.cache/skydelta/kafka-VERSION; the heap is $SKYDELTA_KAFKA_HEAP (768m).
#
# With SKYDELTA_KAFKA_ADVERTISED=HOST:PORT the broker has a second listener for clients that reach it at HOST:PORT
# through something else (a tunnel, NAT): that must lead to the address in DIR/forwarded. DIR remembers both.
set -euo pipefail
# shellcheck source=docker/kafka/node.sh
source "$(dirname "${BASH_SOURCE[0]}")/node.sh"

fetch() {
  if [[ -f $home/complete ]]; then
    return
  fi
  need mvn "install Apache Maven, or copy the jars of $here/pom.xml into $home/lib and touch $home/complete"
  mkdir -p "$home"
  say "fetching Apache Kafka $version into $home"
  mvn -B -q -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$home/lib" -DincludeScope=runtime </dev/null >&2
  touch "$home/complete"
}

# The session of a killed broker must end before it may start again, so it is short.
write_configuration() { # DIR PORT CONTROLLER_PORT [FORWARDED_PORT ADVERTISED]
  local listeners="" advertised="" protocol=""
  if [[ -n ${4:-} ]]; then
    listeners=",FORWARDED://127.0.0.1:$4" advertised=",FORWARDED://$5" protocol=",FORWARDED:PLAINTEXT"
  fi
  {
    settings_of_all
    cat <<PROPERTIES
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$3
listeners=PLAINTEXT://127.0.0.1:$2,CONTROLLER://127.0.0.1:$3$listeners
advertised.listeners=PLAINTEXT://127.0.0.1:$2$advertised
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT$protocol
log.dirs=$1/data
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
PROPERTIES
  } >"$1/server.properties"
}

start() { # DIR [PORT]
  need_kafka
  mkdir -p "$1"
  local dir port="" controller="" forwarded="" advertised=""
  dir=$(directory "$1")
  if is_running "$dir"; then
    die "a broker runs in $dir already, at $(cat "$dir/bootstrap")"
  fi
  # The quorum of a formatted DIR remembers its controller's address, so a restart keeps all ports.
  if [[ -f $dir/ports ]]; then
    read -r port controller forwarded advertised <"$dir/ports" || true
  fi
  port=${2:-${port:-$(free_port)}}
  controller=${controller:-$(free_port)}
  advertised=${SKYDELTA_KAFKA_ADVERTISED:-$advertised}
  if [[ -n $advertised ]]; then
    forwarded=${forwarded:-$(free_port)}
    printf '127.0.0.1:%s\n' "$forwarded" >"$dir/forwarded"
  fi
  printf '%s\n' "$port $controller $forwarded $advertised" >"$dir/ports"
  write_configuration "$dir" "$port" "$controller" "$forwarded" "$advertised"
  write_logging "$dir"
  if [[ ! -f $dir/data/meta.properties ]]; then
    format "$dir" "$(random_id "$dir")" --standalone
  fi
  printf '127.0.0.1:%s\n' "$port" >"$dir/bootstrap"
  launch "$dir"
  wait_until_ready "$dir" "$port"
  cat "$dir/bootstrap"
}

usage="usage: broker.sh fetch | start DIR [PORT] | stop DIR | kill DIR"
case "${1:-} $#" in
  "fetch 1") fetch ;;
  "start 2" | "start 3") start "$2" "${3:-}" ;;
  "stop 2") dir=$(directory "$2"); end "$dir" ;;
  "kill 2") dir=$(directory "$2"); murder "$dir" ;;
  *) die "$usage" ;;
esac
