#!/bin/bash
# Decode a file of prompts on all hosts of a TPU pod slice:
#   decode/tpu_pod.sh NAME ZONE --prompts prompts.jsonl --reward-model rad --beta 10 --out out.jsonl
set -euo pipefail
name=$1 zone=$2
shift 2

# Prompts, reward model and --out lie on a disk that all hosts have mounted.
gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker all --command \
  "rewardjax decode guided $(printf '%q ' "$@") --hosts.join --mesh.data -1 --resume"
