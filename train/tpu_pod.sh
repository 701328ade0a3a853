#!/bin/bash
# Train on all hosts of a TPU pod slice:
#   train/tpu_pod.sh NAME ZONE configs/sst2_rad.yaml --run-dir gs-mounted/runs/rad
set -euo pipefail
name=$1 zone=$2
shift 2

# The same command on every host; the TPU runtime tells JAX who the others are. The run directory
# and the cache lie on a disk that all hosts have mounted.
gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker all --command \
  "rewardjax train reward-model $(printf '%q ' "$@") --hosts.join --mesh.fsdp -1 --resume"
