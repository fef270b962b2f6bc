#!/usr/bin/env bash
# Starts a SLURM of one node on loopback, without a data base: up.sh FOLDER PORT (PORT and the next one must be free).
# Then: export SLURM_CONF=FOLDER/slurm.conf
set -euo pipefail
mkdir -p "$1"
home=$(cd "$1" && pwd)
port=$2
node=$(hostname -s)
mkdir -p "$home"/{state,spool,log,run}
chmod 755 "$home/run"
cat >"$home/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a short life of credentials also shortens the pause before a requeued task
AuthInfo=socket=$home/run/munge.sock,cred_expire=10
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,defer
ReturnToService=2
KillWait=5
MinJobAge=3600
JobRequeue=1
GresTypes=gpu
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/run/slurmctld.pid
SlurmdPidFile=$home/run/slurmd.pid
SlurmctldLogFile=$home/log/slurmctld.log
SlurmdLogFile=$home/log/slurmd.log
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=2000 Gres=gpu:2 State=UNKNOWN
PartitionName=test Nodes=$node Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
CONF
printf 'NodeName=%s Name=gpu File=/dev/%s\n' "$node" null "$node" zero >"$home/gres.conf"
head -c 128 /dev/urandom >"$home/run/munge.key"
chmod 600 "$home/run/munge.key"
munged --force --key-file="$home/run/munge.key" --socket="$home/run/munge.sock" --pid-file="$home/run/munged.pid" \
  --log-file="$home/log/munged.log" --seed-file="$home/run/munge.seed"
export SLURM_CONF="$home/slurm.conf"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N "$node"
for _ in $(seq 200); do
  if sinfo -h -o %T 2>/dev/null | grep -q idle; then exit 0; fi
  sleep 0.1
done
tail "$home"/log/*.log >&2
exit 1
