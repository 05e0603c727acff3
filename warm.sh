#!/bin/bash
cd /work/wt/warm
export PYTHONPATH=/work/wt/warm OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
taskset -c 1 .venv/bin/python -m benchmarks.frontier.play kitchen --episodes 100 --arms "ddpm-5 trailing, warm from 3" "ddpm-5 trailing, warm from 4" "ddpm-10 trailing, warm from 8" "ddpm-10 trailing, warm from 9" "ddpm-2 trailing" "ddpm-1 trailing" "ddpm-10 trailing, warm from 7" "ddpm-10 trailing, warm from 5" "ddpm-5 trailing, warm from 2" "ddpm-5 trailing, warm from 1"  "ddpm-5 trailing, warm from 4, fill noise" "ddpm-5 trailing, warm from 3, fill noise"
