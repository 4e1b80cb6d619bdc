#!/bin/bash
# A Ray cluster of one job's nodes, for as long as the run takes; what comes after the tables goes to `reeltable run`:
#   sbatch slurm.sh 's3://lake/dt={date}/' s3://tables --date yesterday --catch-up
#SBATCH --job-name=reeltable
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
set -euo pipefail

input=${1:?expected an INPUT, such as s3://lake/}
tables=${2:?expected where the tables are, such as s3://tables}
shift 2

# The job's own token, on the disk that its nodes share, for its owner alone.
umask 077
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$SLURM_SUBMIT_DIR/.ray-token-$SLURM_JOB_ID"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$RAY_AUTH_TOKEN_PATH"

run=
stop() { # a stop goes to the run, which gives its lease back, and then to the nodes
    if [ -n "$run" ] && kill -TERM "$run" 2> /dev/null; then wait "$run" || true; fi
    rm -f "$RAY_AUTH_TOKEN_PATH"
    kill $(jobs -p) 2> /dev/null || true
}
trap stop EXIT
trap 'exit 143' TERM

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs of others may share the node
folder=/tmp/ray-$SLURM_JOB_ID

# What is the job's: Ray would count all of a node, which others may share, and srun would take one CPU.
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
share=(--num-cpus="$SLURM_CPUS_PER_TASK")
[ -z "${SLURM_GPUS_ON_NODE:-}" ] || share+=(--num-gpus="$SLURM_GPUS_ON_NODE")
if [ "${SLURM_MEM_PER_NODE:-0}" -gt 0 ]; then # in MB; 30 % is Ray's own share of what there is
    share+=(--object-store-memory=$((SLURM_MEM_PER_NODE * 2**20 * 3 / 10)))
fi

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --block --port="$port" --dashboard-host=127.0.0.1 --dashboard-port=$((port + 1)) \
    --ray-client-server-port=$((port + 2)) --temp-dir="$folder" --disable-usage-stats "${share[@]}" &
until ray status --address "$head:$port" > /dev/null 2>&1; do sleep 2; done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --overlap --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) \
        --exclude="$head" ray start --block --address="$head:$port" "${share[@]}" &
fi
until [ "$(ray status --address "$head:$port" 2> /dev/null | grep -c '^ 1 node_')" -eq "$SLURM_JOB_NUM_NODES" ]; do
    sleep 2
done

# Exit 3 is for single units that failed; --job-id makes it 0, and a job that is requeued goes on where it stopped.
reeltable run "$input" --out "$tables" --address "$head:$port" --job-id "slurm-$SLURM_JOB_ID" --wait 3600 "$@" &
run=$!
wait "$run"
