#!/usr/bin/env bash
# Three Apache Kafka brokers (KRaft) on loopback, to try what a cluster survives. First `broker.sh fetch`.
#
#   cluster.sh start DIR [--sasl]    start three brokers that keep their logs in DIR; prints their bootstrap addresses
#   cluster.sh stop DIR              stop them; DIR stays, and `start DIR` finds every committed message again
#   cluster.sh kill DIR N            kill broker N (1, 2 or 3) with SIGKILL
#   cluster.sh start-node DIR N      start broker N again
#   cluster.sh bootstrap DIR         print the bootstrap addresses
#
# Three copies of everything, of which two must be written (min.insync.replicas=2).
#
# With --sasl clients log in with SASL/SCRAM-SHA-512 and may do only what an ACL says. The users are admin (everything),
# skydelta (the workers) and reader (the public); passwords are $SKYDELTA_KAFKA_{ADMIN,WORKER,READER}_PASSWORD, or made
# up, and kept in DIR/users, which only you can read. access.py beside this file gives skydelta and reader their rights.
#
# The heap of each broker is $SKYDELTA_KAFKA_HEAP (512m).
set -euo pipefail
: "${SKYDELTA_KAFKA_HEAP:=512m}"
# shellcheck source=docker/kafka/node.sh
source "$(dirname "${BASH_SOURCE[0]}")/node.sh"

nodes="1 2 3"
umask 077 # DIR holds passwords

password() { # GIVEN: prints it, or one made up
  local made=${1:-$(od -An -N18 -tx1 /dev/urandom | tr -d ' \n')}
  [[ $made =~ ^[A-Za-z0-9_.~+/=-]+$ ]] || die "a password may hold letters, digits and _.~+/=- only"
  printf '%s\n' "$made"
}

write_users() { # DIR
  local admin worker reader
  admin=$(password "${SKYDELTA_KAFKA_ADMIN_PASSWORD:-}")
  worker=$(password "${SKYDELTA_KAFKA_WORKER_PASSWORD:-}")
  reader=$(password "${SKYDELTA_KAFKA_READER_PASSWORD:-}")
  printf 'admin=%s\nskydelta=%s\nreader=%s\n' "$admin" "$worker" "$reader" >"$1/users"
}

write_ports() { # DIR: a line for each node, its port and its controller's; and the addresses
  local n
  for n in $nodes; do
    printf '%s %s\n' "$(free_port)" "$(free_port)"
  done >"$1/ports"
  sed 's/^\([0-9]*\).*/127.0.0.1:\1/' "$1/ports" | paste -sd, >"$1/bootstrap"
}

ports_of() { # DIR N
  sed -n "$2p" "$1/ports"
}

settings_of_login() { # DIR: of a node with SASL; the controllers log in with PLAIN, as they can't with SCRAM
  local admin module=org.apache.kafka.common.security
  admin=$(sed -n 's/^admin=//p' "$1/users")
  cat <<PROPERTIES
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
sasl.mechanism.controller.protocol=PLAIN
listener.name.client.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.controller.sasl.enabled.mechanisms=PLAIN
listener.name.client.scram-sha-512.sasl.jaas.config=$module.scram.ScramLoginModule required username="admin" password="$admin";
listener.name.controller.plain.sasl.jaas.config=$module.plain.PlainLoginModule required username="admin" password="$admin" user_admin="$admin";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin
PROPERTIES
}

write_configuration() { # DIR N
  local port controller voters protocol=PLAINTEXT
  read -r port controller <<<"$(ports_of "$1" "$2")"
  voters=$(sed 's/^[0-9]* /127.0.0.1:/' "$1/ports" | sed = | sed 'N;s/\n/@/' | paste -sd,)
  if [[ -f $1/users ]]; then
    protocol=SASL_PLAINTEXT
  fi
  {
    settings_of_all
    cat <<PROPERTIES
node.id=$2
controller.quorum.voters=$voters
listeners=CLIENT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=CLIENT://127.0.0.1:$port
inter.broker.listener.name=CLIENT
listener.security.protocol.map=CONTROLLER:$protocol,CLIENT:$protocol
log.dirs=$1/node-$2/data
broker.session.timeout.ms=6000
broker.heartbeat.interval.ms=1000
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
PROPERTIES
    if [[ -f $1/users ]]; then
      settings_of_login "$1"
    fi
  } >"$1/node-$2/server.properties"
}

prepare() { # DIR SASL: lay out three nodes, once
  local n user password users=()
  if [[ -f $1/complete ]]; then
    [[ -z $2 || -f $1/users ]] || die "the cluster of $1 was made without --sasl: choose another directory"
    return
  fi
  write_ports "$1"
  if [[ -n $2 ]]; then
    write_users "$1"
    while IFS== read -r user password; do
      users+=(--add-scram "SCRAM-SHA-512=[name=$user,password=$password]")
    done <"$1/users"
  fi
  for n in $nodes; do
    mkdir -p "$1/node-$n"
    write_configuration "$1" "$n"
    write_logging "$1/node-$n"
    [[ -s $1/cluster.id ]] || random_id "$1/node-$n" >"$1/cluster.id"
    format "$1/node-$n" "$(cat "$1/cluster.id")" "${users[@]}"
  done
  touch "$1/complete"
}

start() { # DIR [--sasl]
  need_kafka
  [[ -z ${2:-} || $2 == --sasl ]] || die "$usage"
  mkdir -p "$1"
  local dir n
  dir=$(directory "$1")
  for n in $nodes; do
    ! is_running "$dir/node-$n" || die "broker $n of $dir runs already, at $(cat "$dir/bootstrap")"
  done
  prepare "$dir" "${2:-}"
  for n in $nodes; do
    launch "$dir/node-$n"
  done
  for n in $nodes; do
    wait_until_ready "$dir/node-$n" "$(ports_of "$dir" "$n" | cut -d' ' -f1)"
  done
  cat "$dir/bootstrap"
}

start_node() { # DIR N
  ! is_running "$1/node-$2" || die "broker $2 of $1 runs already"
  launch "$1/node-$2"
  wait_until_ready "$1/node-$2" "$(ports_of "$1" "$2" | cut -d' ' -f1)"
}

stop() { # DIR: all at once, since two of three must live to let one go in peace
  local n
  for n in $nodes; do
    end "$1/node-$n" &
  done
  wait
}

with_node() { # COMMAND DIR N
  local dir
  dir=$(directory "$2")
  [[ -d $dir/node-$3 ]] || die "no broker $3 in $dir"
  "$1" "$dir" "$3"
}

murder_node() { # DIR N
  murder "$1/node-$2"
}

usage="usage: cluster.sh start DIR [--sasl] | stop DIR | kill DIR N | start-node DIR N | bootstrap DIR"
case "${1:-} $#" in
  "start 2" | "start 3") start "$2" "${3:-}" ;;
  "stop 2") dir=$(directory "$2"); stop "$dir" ;;
  "kill 3") with_node murder_node "$2" "$3" ;;
  "start-node 3") need_kafka; with_node start_node "$2" "$3" ;;
  "bootstrap 2") dir=$(directory "$2"); cat "$dir/bootstrap" ;;
  *) die "$usage" ;;
esac
