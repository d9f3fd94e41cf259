#!/usr/bin/env bash
# sbatch --nodes=4 --gpus-per-node=2 cluster/slurm.sh /shared/jobs.yaml /shared/runs/first
#
# Run a manifest on the nodes of a Slurm job: Ray's head and the driver on the first one, workers on
# all. The package is in a virtual environment at VENV (default: .venv beside this folder), on a file
# system that all nodes share, as are the manifest, its pictures and the run directory. Two minutes
# before the time limit the run is told to stop, and the job goes back into the queue; so does it
# when a node fails. Each time it continues where it was.
#SBATCH --job-name=msbd
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

manifest=${1:?usage: sbatch slurm.sh MANIFEST OUT}
out=${2:?usage: sbatch slurm.sh MANIFEST OUT}
# Slurm runs a copy of this script: the folder it was submitted from is what is known
venv=${VENV:-${SLURM_SUBMIT_DIR:?is set by sbatch}/.venv}
export PATH="$venv/bin:$PATH" RAY_AUTH_MODE=token
export RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000
export RAY_health_check_failure_threshold=3
ray get-auth-token --generate >/dev/null # in the home folder, which the nodes share

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --overlap -w "$head" hostname --all-ip-addresses | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs may share a node
temporary=/tmp/ray-$SLURM_JOB_ID
cpus=${SLURM_CPUS_PER_TASK:-8}
gpus=${SLURM_GPUS_ON_NODE:-0}

start() { # NODE ARGUMENTS...: a Ray there, as long as this job lives
    local node=$1
    shift
    srun --nodes=1 --ntasks=1 --overlap -w "$node" ray start "$@" --block \
        --num-cpus="$cpus" --num-gpus="$gpus" --object-store-memory=500000000 &
}

alive() { # how many nodes the Ray has
    python - "$address:$port" <<'EOF'
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))
EOF
}

start "$head" --head --node-ip-address="$address" --port="$port" --temp-dir="$temporary" \
    --ray-client-server-port=$((port + 20000)) --include-dashboard=false
until ray status --address="$address:$port" >/dev/null 2>&1; do sleep 2; done
for node in "${nodes[@]:1}"; do
    start "$node" --address="$address:$port"
done
# the number of workers is settled when a run begins: wait for all nodes
until [[ $(alive) == "${#nodes[@]}" ]]; do sleep 2; done

msbd run "$manifest" --out "$out" --address "$address:$port" &
driver=$!
stopped=
trap 'stopped=yes; kill -TERM "$driver"' TERM
code=0
wait "$driver" || code=$?
if [[ -n $stopped ]]; then # the trap ended that wait; now for the driver's own end
    code=0
    wait "$driver" || code=$?
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
