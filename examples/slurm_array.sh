#!/bin/bash
#SBATCH --array=1-16 --requeue --signal=B:TERM@60 --open-mode=append
#SBATCH --cpus-per-task=4 --mem=8G --time=04:00:00
#
# A shard a task: `sbatch examples/slurm_array.sh --dataset mnist --seeds 0-99`, then `atras merge runs/part-* -o runs/all`.
# A task that is preempted, or that has a minute left, writes a checkpoint and goes on when it is started again.
set -u
out=${OUT:-runs}/part-$SLURM_ARRAY_TASK_ID

if [ -e "$out/run.json" ]; then
    python -m atras.batched --resume "$out" --quiet &
else
    python -m atras.batched "$@" --shard slurm --out "$out" --quiet &
fi
run=$!
# Slurm tells the shell alone; what runs in the foreground would keep it from hearing.
trap 'kill -TERM "$run"' TERM
wait "$run"
status=$?
while kill -0 "$run" 2> /dev/null; do # a trapped signal ends `wait`, not the run
    wait "$run"
    status=$?
done
if [ "$status" -eq 143 ]; then # stopped by SIGTERM: what is left is for another turn
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$status"
