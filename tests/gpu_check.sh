#!/bin/bash
# Everything that a GPU can be asked, for the day there is one: it is right, it repeats itself, how
# fast it is. A numbered line for each stage, at the end "N passed, M failed"; all of it is also
# written to a file. With the simulator the same stages run in sizes that say nothing of speed.
# usage: [variables] tests/gpu_check.sh BUILD_FOLDER [KIND_OF_SIMULATOR]     (make gpu-check)
#   GPU_CHECK_FILE     where the table goes; build/gpu-check.txt
#   GPU_CHECK_MODELS   models to time: "ViT-B-32 ViT-B-16 ViT-L-14"; MODEL:BATCH names the batch,
#                      else it is the largest power of two that fits the memory
#   GPU_CHECK_TESTS    ordinary tests to run with the GPU present; all of them
#   GPU_CHECK_GPUS     how many GPUs ranks may take; those that nvidia-smi lists
#   BENCH_PYTHON       a Python with open_clip, to time the same steps in; python3
set -u -o pipefail
cd "$(dirname "$0")/.."
build=${1:?usage: tests/gpu_check.sh BUILD_FOLDER [KIND_OF_SIMULATOR]}
sim=${2:-}
make=${MAKE:-make}
file=${GPU_CHECK_FILE:-build/gpu-check.txt}
python=${BENCH_PYTHON:-python3}
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$(dirname "$file")" && : >"$file" || exit 2

stages=0
passed=0
failed=0
say() { printf '%s\n' "$*" | tee -a "$file"; }
verdict() {  # title, verdict: the numbered line
  (( stages += 1 ))
  say "$(printf '%2d  %-68s %s' "$stages" "$1" "$2")"
}
stage() {  # title, command...: its output is shown if it fails
  local title=$1 start=$EPOCHREALTIME seconds
  shift
  if "$@" >"$scratch/log" 2>&1; then
    seconds=$(( (${EPOCHREALTIME/./} - ${start/./}) / 1000000 ))
    (( passed += 1 ))
    verdict "$title" "passed  $seconds s"
  else
    (( failed += 1 ))
    verdict "$title" FAILED
    tail -n 60 "$scratch/log" | sed 's/^/      /' | tee -a "$file"
    return 1
  fi
}
skip() { verdict "$1" "skipped: $2"; }
field() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p" <<<"$2"; }  # number of a JSON line

# ---- What differs with the simulator: sizes -----------------------------------------------------
small='{"embed_dim": 16,
  "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 2, "head_width": 64},
  "text_cfg": {"context_length": 24, "vocab_size": 530, "width": 64, "heads": 1, "layers": 2}}'
printf '%s' "$small" >"$scratch/small.json"
if [[ -n $sim ]]; then
  models=${GPU_CHECK_MODELS:-$scratch/small.json:4}
  ordinary=${GPU_CHECK_TESTS:-training_test}
  train_model=$scratch/small.json steps=1 warmup=0 rounds=1 gpus=${GPU_CHECK_GPUS:-2}
  export OMPI_MCA_mpi_yield_when_idle=1
else
  models=${GPU_CHECK_MODELS:-ViT-B-32 ViT-B-16 ViT-L-14}
  ordinary=${GPU_CHECK_TESTS:-}
  train_model=ViT-B-32 steps=10 warmup=3 rounds=3
  gpus=${GPU_CHECK_GPUS:-$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')}
fi
several=()  # numbers of ranks: powers of two, and all
if command -v mpirun >/dev/null; then
  for (( count = 2; count < gpus; count *= 2 )); do several+=("$count"); done
  (( gpus < 2 )) || several+=("$gpus")
fi
on_gpus() {  # how many, program...
  local count=$1
  shift
  if (( count == 1 )); then
    "$@"
  else
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --bind-to none --oversubscribe -np "$count" "$@"
  fi
}

# ---- The device ---------------------------------------------------------------------------------
show_device() {
  if [[ -n $sim ]]; then
    say "device      simulated GPU (SIM=$sim): no figure below is a speed"
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi -q | grep -E '^ *(Product Name|Driver Version|CUDA Version|Current ECC|Current  *:|Graphics +:|SM +:|Memory +:|Current Power Limit|Max Power Limit|MIG Mode)' |
      sed 's/^ */device      /' | uniq | head -n 40 | tee -a "$file"
  else
    say 'device      unknown: there is no nvidia-smi'
  fi
}

# ---- Equal runs ---------------------------------------------------------------------------------
make_pairs() {  # a folder of pictures of noise, each beside its caption
  mkdir -p "$scratch/pairs"
  local i
  for i in {100..227}; do
    { printf 'P6\n32 32\n255\n'; head -c 3072 /dev/urandom; } >"$scratch/pairs/$i.ppm"
    echo "picture number $i of $(( i % 5 )) kinds" >"$scratch/pairs/$i.txt"
  done
}
train() {  # GPUs, name, more options...
  local count=$1 name=$2
  shift 2
  on_gpus "$count" "$build/apps/train" --device cuda --train-data "$scratch/pairs" --model "$train_model" --batch-size 8 \
    --steps "$(( steps < 5 ? 3 : 8 ))" --logs "$scratch/runs" --name "$name" --seed 1 --save-frequency 0 "$@"
}
two_equal_runs() {  # GPUs
  make_pairs && train "$1" "a$1" && train "$1" "b$1" || return 1
  local a=("$scratch/runs/a$1"/checkpoints/step_*) part
  for part in open_clip_model.safetensors training_state.safetensors; do
    cmp "$a/$part" "${a/runs\/a/runs\/b}/$part" || return 1
  done
}
synchronised_run() { CLIP_CUDA_SYNC=1 train 1 c && cmp "$scratch"/runs/{a1,c}/checkpoints/step_*/open_clip_model.safetensors; }

# ---- Speed --------------------------------------------------------------------------------------
bench() {  # GPUs, model, batch of each, precision, more options...: its last line, JSON
  local count=$1
  shift
  on_gpus "$count" "$build/apps/bench" --step "$1" --batch-size "$2" --text-length 20 --precision "$3" --device cuda \
    --steps "$steps" --warmup "$warmup" --json "${@:4}" | tail -n 1
  return "${PIPESTATUS[0]}"
}
largest_batch() {  # model, precision: the largest power of two that fits
  local batch
  for batch in 8192 4096 2048 1024 512 256 128 64 32 16 8; do
    if steps=1 warmup=1 bench 1 "$1" "$batch" "$2" >/dev/null 2>"$scratch/error"; then
      echo "$batch"
      return 0
    fi
    grep -q 'memory' "$scratch/error" || break
  done
  cat "$scratch/error"
  return 1
}
time_model() {  # model[:batch], precision, GPUs: one row of the table in $scratch/row
  local count=$3 model=${1%%:*} batch=${1#*:} line
  if [[ $batch == "$1" ]]; then batch=$(largest_batch "$model" "$2") || { echo "$batch"; return 1; }; fi
  line=$(bench "$count" "$model" "$batch" "$2" --profile) || return 1
  echo "$batch" >"$scratch/batch"
  (( count > 1 )) || field pairs_per_s "$line" >"$scratch/speed"
  local kinds
  kinds=$(sed 's/.*"split_s":{\([^}]*\)}.*/\1/; s/"//g' <<<"$line" | tr ',' '\n' |
    awk -F: '{ name[NR] = $1; time[NR] = $2; total += $2 }
             END { for (i = 1; i <= NR; ++i) printf "  %s %.0f %%", name[i], 100 * time[i] / total }')
  awk -v model="${model##*/}" -v batch="$batch" -v precision="$2" -v step="$(field step_s "$line")" \
    -v speed="$(field pairs_per_s "$line")" -v tflops="$(field tflop_per_s "$line")" -v mfu="$(field mfu "$line")" \
    -v kinds="$kinds" -v count="$count" -v one="$(<"$scratch/speed")" 'BEGIN {
      if (count > 1) scaling = sprintf("  efficiency %.1f %%", 100 * speed / (count * one))
      share = mfu == "null" ? "-" : sprintf("%.1f %%", 100 * mfu)
      printf "    %-12s %-5s %d x batch %-5d %9.4f s %10.1f pairs/s %8.2f TFLOP/s  MFU %-7s%s%s\n",
             model, precision, count, batch, step, speed, tflops, share, scaling, kinds }' >"$scratch/row"
}
median() { sort -g | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }'; }
beside_peer() {  # model, batch, precision: both in turn, then the ratio of medians
  local ours=() theirs=() line
  for (( i = 0; i < rounds; ++i )); do
    line=$(bench 1 "$1" "$2" "$3") || return 1
    ours+=("$(field step_s "$line")")
    line=$("$python" tests/peers/open_clip_step.py "$1" "$2" 20 "$3" "$steps" | tail -n 1) || return 1
    theirs+=("$(field step_s "$line")")
  done
  awk -v ours="$(printf '%s\n' "${ours[@]}" | median)" -v theirs="$(printf '%s\n' "${theirs[@]}" | median)" \
    -v model="$1" -v precision="$3" -v batch="$2" 'BEGIN {
      printf "    %-12s %-5s batch %-5d ours %.4f s, open_clip %.4f s: %.2f times its speed\n",
             model, precision, batch, ours, theirs, theirs / ours }' >"$scratch/row"
}

# ---- The stages ---------------------------------------------------------------------------------
say "gpu-check   $(date -u '+%F %R') UTC, $(git rev-parse --short HEAD 2>/dev/null || echo 'no commit')"
show_device
finish() {
  say "$passed passed, $failed failed"
  (( failed == 0 ))
  exit
}
stage 'builds' $make gpu-programs || finish
gpu_tests=("$build"/tests/cuda_*_test)
[[ -e $build/tests/cuda_ranks_test ]] || several=()  # a build without NCCL or MPI
stage 'a GPU that works is there' "$build/apps/bench" --infer "$scratch/small.json" --batch-size 2 --text-length 5 \
  --steps 1 --warmup 0 --device cuda || finish
for program in "${gpu_tests[@]}"; do
  [[ $program != */cuda_ranks_test ]] || continue  # below
  stage "${program##*/}: the same as the CPU, F32 and BF16" tests/run_tests.sh "$program"
done
stage 'the ordinary tests with the GPU present' $make test SIM_KINDS= ${ordinary:+TESTS="$ordinary"}
stage 'two training runs leave checkpoints of equal bits' two_equal_runs 1
stage 'a run that waits for every kernel leaves the same' synchronised_run
(( ${#several[@]} > 0 )) || skip 'ranks with a GPU each' "${gpus:-0} GPUs, or no mpirun, MPI or NCCL"
ranks_grid() {  # GPUs: where a test is skipped, nothing was shown
  local filter='OnGpuRanks.*'
  (( $1 > 1 )) || filter+='-*.RefuseTensorsThatAreNotOnTheirGpu'  # one rank only copies
  on_gpus "$1" "$build/tests/cuda_ranks_test" --gtest_also_run_disabled_tests --gtest_filter="$filter" |
    tee "$scratch/ranks" && ! grep -qF '[  SKIPPED ]' "$scratch/ranks"
}
[[ ! -e $build/tests/cuda_ranks_test ]] || stage '1 rank: training at 1 to 4 micro-batches as at once' ranks_grid 1
for count in "${several[@]}"; do
  stage "$count ranks: collectives; training at 1 to 4 micro-batches as on one GPU, and twice the same" ranks_grid "$count"
  stage "$count ranks: two training runs leave checkpoints of equal bits" two_equal_runs "$count"
done

sanitized='EveryOpOnGpu.GivesTheOutputsAndGradientsOfTheCpu*:*/EveryOpOnGpu.GivesTheOutputsAndGradientsOfTheCpu/*'
for tool in memcheck racecheck initcheck synccheck; do
  if [[ -n $sim ]]; then
    skip "compute-sanitizer $tool" 'the simulator has its own: make SIM=address, SIM=thread'
  elif command -v compute-sanitizer >/dev/null; then
    stage "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$build/tests/cuda_parity_test" --gtest_filter="$sanitized"
    stage "compute-sanitizer $tool, attention" compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$build/tests/cuda_attention_test"
  else
    skip "compute-sanitizer $tool" 'not found'
  fi
done

precisions='fp32 bf16'
for model in $models; do
  for precision in $precisions; do
    title=${model##*/}
    title="${title%%:*} in $precision"
    rm -f "$scratch/batch"
    stage "speed of $title" time_model "$model" "$precision" 1 && tee -a "$file" <"$scratch/row"
    for count in "${several[@]}"; do
      [[ -e $scratch/batch ]] || continue
      stage "speed of $title on $count GPUs" time_model "${model%%:*}:$(<"$scratch/batch")" "$precision" "$count" &&
        tee -a "$file" <"$scratch/row"
    done
    title="open_clip's $title beside it"
    if [[ ! -e $scratch/batch || $model == *.json* ]]; then
      skip "$title" "${sim:+the simulator has }no speed to compare"
    elif ! "$python" -c 'import open_clip' 2>/dev/null; then
      skip "$title" "$python has no open_clip"
    else
      stage "$title" beside_peer "${model%%:*}" "$(<"$scratch/batch")" "$precision" && tee -a "$file" <"$scratch/row"
    fi
  done
done

finish
