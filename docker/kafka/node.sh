# What broker.sh and cluster.sh share: one Apache Kafka process on loopback and its folder. Sourced, not run.
#
# A node's folder DIR holds server.properties, data/ (its log), broker.log, broker.err and, while it runs, broker.pid.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$here/pom.xml")
home=${SKYDELTA_KAFKA_HOME:-$HOME/.cache/skydelta/kafka-$version}
heap=${SKYDELTA_KAFKA_HEAP:-768m}
wait_seconds=90

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

need() {
  command -v "$1" >/dev/null || die "'$1' is not installed: $2"
}

need_kafka() {
  need java "install a Java runtime, 17 or later"
  [[ -f $home/complete ]] || die "no jars in $home: run '$here/broker.sh fetch' first"
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

settings_of_all() { # what is the same on every broker, alone or in a cluster
  cat <<PROPERTIES
process.roles=broker,controller
controller.listener.names=CONTROLLER
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.retention.minutes=43200
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=2000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=300
message.max.bytes=52428800
replica.fetch.max.bytes=52428800
PROPERTIES
}

write_logging() { # DIR
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

random_id() { # DIR: prints a cluster id
  java_tool "$1" kafka.tools.StorageTool random-uuid 2>>"$1/broker.err"
}

format() { # DIR CLUSTER_ID ARGUMENTS...: lay out its log, once
  local dir=$1 id=$2
  shift 2
  if [[ -f $dir/data/meta.properties ]]; then
    return
  fi
  java_tool "$dir" kafka.tools.StorageTool format -t "$id" -c "$dir/server.properties" "$@" >>"$dir/broker.err" 2>&1 ||
    die "formatting $dir/data failed: see $dir/broker.err"
}

launch() { # DIR: start its broker; do not wait for it
  rm -f "$1/broker.log"
  set -m # its own process group: a Ctrl-C for the caller does not reach it
  nohup java -Xms256m "-Xmx$heap" "-Dlog4j2.configurationFile=$1/log4j2.properties" -cp "$home/lib/*" \
    kafka.Kafka "$1/server.properties" </dev/null >>"$1/broker.err" 2>&1 &
  set +m
  printf '%s\n' "$!" >"$1/broker.pid"
}

wait_until_ready() { # DIR PORT: the line is logged when every listener answers
  local deadline=$((SECONDS + wait_seconds)) pid
  pid=$(cat "$1/broker.pid")
  until grep -q 'Kafka Server started' "$1/broker.log" 2>/dev/null && is_open "$2"; do
    kill -0 "$pid" 2>/dev/null || die "the broker ended while starting: see $1/broker.log and $1/broker.err"
    ((SECONDS < deadline)) || die "the broker is not ready after $wait_seconds s: see $1/broker.log"
    sleep 0.2
  done
}

wait_until_gone() { # DIR SECONDS
  local turns=$(($2 * 5))
  while is_running "$1"; do
    ((turns-- > 0)) || return 1
    sleep 0.2
  done
}

end() { # DIR: SIGTERM, and SIGKILL after 30 s
  if is_running "$1"; then
    kill -TERM "$(cat "$1/broker.pid")"
    wait_until_gone "$1" 30 || { say "the broker of $1 ignores SIGTERM: killing it"; murder "$1"; }
  fi
  rm -f "$1/broker.pid"
}

murder() { # DIR: SIGKILL, as a power cut or the kernel would
  is_running "$1" || die "no broker runs in $1"
  kill -KILL "$(cat "$1/broker.pid")"
  wait_until_gone "$1" 10 || die "the broker of $1 survives SIGKILL"
  rm -f "$1/broker.pid"
}

directory() { # DIR: prints its absolute path
  (cd "$1" 2>/dev/null && pwd) || die "no such directory: $1"
}
