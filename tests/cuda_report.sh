#!/bin/bash
# What each kernel takes of a GPU, as ptxas counted it while compiling: a row per architecture and
# kernel, most registers first. Shared memory is what is static; launches ask for the rest.
# usage: tests/cuda_report.sh file.cu.o.ptxas...
set -u -o pipefail

printf '%-6s %9s %6s %6s %7s  %s\n' arch registers spills stack shared kernel
awk '
  /Compiling entry function/ { split($0, part, "\047"); kernel = part[2]; arch = part[4] }
  /bytes stack frame/        { stack = $1; spills = $5 + $9 }
  /Used [0-9]+ registers/ {
    match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
    shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART, RLENGTH) + 0 : 0
    printf "%-6s %9d %6d %6d %7d  %s\n", arch, registers, spills, stack, shared, kernel
  }' "$@" | c++filt |
  sed -E 's/clip::\(anonymous namespace\):://g; s/clip:://g; s/__nv_bfloat16/bf16/g; s/  void /  /; s/\(Gelu\)0/quick/; s/\(Gelu\)1/erf/
          s/>?\([^(]*\)$/&/; s/(_kernel)?(<[^(]*>)?\(.*\)$/\2/' |
  sort -k1,1 -k2,2nr -k6 || exit 1
