#!/usr/bin/env bash
# One Apache Kafka broker (KRaft) on loopback, without Docker. Needs bash, java >= 17 and, for the first fetch, mvn.
#
#   broker.sh fetch               copy the jars (43 MB) into the cache; nothing to do when they are there
#   broker.sh start DIR [PORT]    start a broker that keeps its log in DIR; prints its bootstrap address
#   broker.sh stop DIR            stop it; DIR stays, and `start DIR` finds every committed message again
#
# The cache is $SKYDELTA_KAFKA_HOME, by default ~/.cache/skydelta/kafka-VERSION.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$here/pom.xml")
home=${SKYDELTA_KAFKA_HOME:-$HOME/.cache/skydelta/kafka-$version}
heap=${SKYDELTA_KAFKA_HEAP:-768m}
wait_seconds=90

say() { printf 'broker.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

need() {
  command -v "$1" >/dev/null || die "'$1' is not installed: $2"
}

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

is_running() { # DIR: is the broker of DIR alive? (a reused pid is not our broker)
  local pid
  pid=$(cat "$1/broker.pid" 2>/dev/null) || return 1
  kill -0 "$pid" 2>/dev/null && [[ $(arguments_of "$pid" 2>/dev/null) == *" $1/server.properties"* ]]
}

write_configuration() { # DIR PORT CONTROLLER_PORT
  cat >"$1/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$3
listeners=PLAINTEXT://127.0.0.1:$2,CONTROLLER://127.0.0.1:$3
advertised.listeners=PLAINTEXT://127.0.0.1:$2
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$1/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
offsets.retention.minutes=43200
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=2000
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=300
message.max.bytes=52428800
replica.fetch.max.bytes=52428800
PROPERTIES
  cat >"$1/log4j2.properties" <<PROPERTIES
appender.file.type=File
appender.file.name=file
appender.file.fileName=$1/broker.log
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d %p %m (%c)%n
rootLogger.level=info
rootLogger.appenderRef.file.ref=file
PROPERTIES
}

java_tool() { # DIR ARGUMENTS...: run a class of the cache with the log of DIR
  local dir=$1
  shift
  java "-Dlog4j2.configurationFile=$dir/log4j2.properties" -cp "$home/lib/*" "$@"
}

format() { # DIR: lay out its log, once
  if [[ -f $1/data/meta.properties ]]; then
    return
  fi
  local id
  id=$(java_tool "$1" kafka.tools.StorageTool random-uuid 2>>"$1/broker.err")
  java_tool "$1" kafka.tools.StorageTool format -t "$id" -c "$1/server.properties" --standalone >>"$1/broker.err" 2>&1 ||
    die "formatting $1/data failed: see $1/broker.err"
}

wait_until_ready() { # DIR PORT PID: the line is logged when every listener answers
  local deadline=$((SECONDS + wait_seconds))
  until grep -q 'Kafka Server started' "$1/broker.log" 2>/dev/null && is_open "$2"; do
    kill -0 "$3" 2>/dev/null || die "the broker ended while starting: see $1/broker.log and $1/broker.err"
    ((SECONDS < deadline)) || die "the broker is not ready after $wait_seconds s: see $1/broker.log"
    sleep 0.2
  done
}

start() { # DIR [PORT]
  need java "install a Java runtime, 17 or later"
  [[ -f $home/complete ]] || die "no jars in $home: run '$0 fetch' first"
  mkdir -p "$1"
  local dir port controller
  dir=$(cd "$1" && pwd)
  if is_running "$dir"; then
    die "a broker runs in $dir already, at $(cat "$dir/bootstrap")"
  fi
  # The quorum of a formatted DIR remembers its controller's address, so a restart keeps both ports.
  if [[ -f $dir/ports ]]; then
    read -r port controller <"$dir/ports"
  else
    port=$(free_port)
    controller=$(free_port)
  fi
  port=${2:-$port}
  printf '%s %s\n' "$port" "$controller" >"$dir/ports"
  write_configuration "$dir" "$port" "$controller"
  format "$dir"
  rm -f "$dir/broker.log"
  set -m # its own process group: a Ctrl-C for the caller does not reach it
  nohup java -Xms256m "-Xmx$heap" "-Dlog4j2.configurationFile=$dir/log4j2.properties" -cp "$home/lib/*" \
    kafka.Kafka "$dir/server.properties" </dev/null >>"$dir/broker.err" 2>&1 &
  set +m
  local pid=$!
  printf '%s\n' "$pid" >"$dir/broker.pid"
  printf '127.0.0.1:%s\n' "$port" >"$dir/bootstrap"
  wait_until_ready "$dir" "$port" "$pid"
  cat "$dir/bootstrap"
}

stop() { # DIR: SIGTERM, and SIGKILL after 30 s
  local dir pid
  dir=$(cd "$1" 2>/dev/null && pwd) || die "no such directory: $1"
  if ! is_running "$dir"; then
    rm -f "$dir/broker.pid"
    return
  fi
  pid=$(cat "$dir/broker.pid")
  kill -TERM "$pid"
  for _ in $(seq 150); do
    is_running "$dir" || break
    sleep 0.2
  done
  if is_running "$dir"; then
    say "the broker of $dir ignores SIGTERM: killing it"
    kill -KILL "$pid"
  fi
  rm -f "$dir/broker.pid"
}

usage="usage: broker.sh fetch | start DIR [PORT] | stop DIR"
case "${1:-}" in
  fetch) fetch ;;
  start) [[ $# -ge 2 ]] || die "$usage"; start "$2" "${3:-}" ;;
  stop) [[ $# -eq 2 ]] || die "$usage"; stop "$2" ;;
  *) die "$usage" ;;
esac
