#!/bin/bash
# Decode a file of prompts on several hosts with SLURM:
#   sbatch decode/slurm.sh --prompts prompts.jsonl --reward-model runs/rad/reward_model \
#     --beta 10 --out out.jsonl
#SBATCH --job-name=decode
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8        # one process per GPU: JAX gives each its own under SLURM
#SBATCH --gpus-per-node=8
#SBATCH --requeue

# Each process decodes its share of the prompts on its own GPU and writes it beside --out; the first
# merges them in the order of the prompts. Whatever was written before a job was ended is kept:
# submit the same command again.
srun rewardjax decode guided "$@" --hosts.join --resume
