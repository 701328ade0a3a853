#!/bin/bash
# Train on several hosts with SLURM:  sbatch train/slurm.sh configs/sst2_rad.yaml
#SBATCH --job-name=reward-model
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8        # one process per GPU: JAX gives each its own under SLURM
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@120          # two minutes before the time is up: a checkpoint, and exit 143
#SBATCH --requeue

# Run directory and cache lie on a disk that all hosts see. JAX finds the other processes by SLURM's
# own variables; `-1` takes the devices that the other axes leave. --resume starts a new run, too.
export REWARDJAX_CACHE=${REWARDJAX_CACHE:-$PWD/runs/cache}
srun rewardjax train reward-model "$@" --hosts.join --mesh.data -1 --resume
