#!/usr/bin/env bash
# Stops what up.sh FOLDER started, by the numbers of its processes, and the tasks that still run.
set -uo pipefail
home=$(cd "$1" && pwd)
export SLURM_CONF="$home/slurm.conf"
scancel --user=root 2>/dev/null
for _ in $(seq 150); do # a task that is ending needs the controller
  [ -n "$(squeue -h 2>/dev/null)" ] || break
  sleep 0.1
done
for daemons in "slurmctld slurmd" munged; do
  pids=$(for daemon in $daemons; do cat "$home/run/$daemon.pid" 2>/dev/null; done)
  [ -n "$pids" ] || continue
  # shellcheck disable=SC2086
  kill $pids 2>/dev/null
  for pid in $pids; do
    for _ in $(seq 100); do
      kill -0 "$pid" 2>/dev/null || continue 2
      sleep 0.1
    done
    kill -9 "$pid"
  done
done
exit 0
