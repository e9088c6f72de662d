#!/bin/bash
# Reads the PTX inside libclip_cuda.so and says what each kernel lacks of the instructions it was
# written for: tensor cores and asynchronous copies in attention, 16-byte loads and stores where
# memory traffic is the cost. No kernel may hold an atomic: their order differs from run to run.
# usage: tests/check_ptx.sh libclip_cuda.so
set -u -o pipefail

vector='ld.global.v4 st.global.v4'
# File and kernel, without "_kernel", and what every instance of it must hold.
expected="
attention_mma forward    mma ldmatrix ldmatrix.trans cp.async
attention_mma backward   mma ldmatrix ldmatrix.trans cp.async
layer_norm layer_norm_forward        $vector
layer_norm layer_norm_forward_wide   $vector
layer_norm layer_norm_row_means      ld.global.v4
layer_norm layer_norm_backward       $vector
gelu bias_gelu_forward               $vector
gelu bias_gelu_backward              $vector
column_sums column_sums              ld.global.v4
matmul add_bias                      $vector
matmul copy_rows                     $vector
l2_normalize l2_normalize_forward    $vector
l2_normalize l2_normalize_backward   $vector
patches assemble_tokens_forward      $vector
patches assemble_tokens_backward     $vector
token_embedding token_embedding_forward  $vector
token_embedding table_sums           ld.global.v4
token_embedding position_sums        ld.global.v4
gather_rows gather_rows_forward      $vector
gather_rows gather_rows_backward     $vector
reduce add                           $vector
reduce sum_blocks                    ld.global.v4
clip_loss clip_loss_tile_forward     ld.global.v4
clip_loss clip_loss_tile_backward    $vector
adamw adamw                          $vector
"

# The library holds a text for each architecture; a kernel must be right in all of them.
report=$(tr -c '[:print:]\n\t' '\n' <"$1" | awk -v expected="$expected" '
  # Mangled: _ZN4clip39_GLOBAL__N__a959c43e_7_gelu_cu_20953de725bias_gelu_backward_kernelI...
  function short_name(mangled, file, kernel) {
    file = mangled; sub(/.*_GLOBAL__N__[0-9a-f]+_[0-9]+_/, "", file); sub(/_cu_[0-9a-f]*.*/, "", file)
    kernel = mangled; sub(/.*_cu_[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9]*/, "", kernel)
    sub(/_kernel.*/, "", kernel)
    return file " " kernel
  }
  function need(instruction) { return have[instruction] ? "" : " " instruction }
  function finish(  i, count, words, missing) {
    if (kernel == "") return
    seen[short_name(kernel)]++
    count = split(wanted[short_name(kernel)], words, " ")
    missing = ""
    for (i = 1; i <= count; ++i) missing = missing need(words[i])
    if (missing != "") print kernel ": no" missing
    if (have["atomic"]) print kernel ": an atomic: " have["atomic"]
    kernel = ""
  }
  BEGIN {
    count = split(expected, lines, "\n")
    for (i = 1; i <= count; ++i) {
      if (split(lines[i], words, " ") < 3) continue
      name = words[1] " " words[2]
      sub(/^[^ ]+ +[^ ]+ +/, "", lines[i])
      wanted[name] = lines[i]
    }
  }
  /^[ \t]*(\.visible |\.weak )?\.(entry|func)/ {
    finish()
    split("", have)
    if (match($0, /_Z[A-Za-z0-9_]+/)) kernel = substr($0, RSTART, RLENGTH)
    next
  }
  kernel == "" { next }
  /^[ \t]*\.(file|section)/ { finish(); next }
  {
    instruction = $1 ~ /^@/ ? $2 : $1
    if (instruction ~ /^mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16\.bf16\.f32/) have["mma"] = 1
    if (instruction ~ /^ldmatrix.*\.trans/) have["ldmatrix.trans"] = 1
    else if (instruction ~ /^ldmatrix/) have["ldmatrix"] = 1
    if (instruction ~ /^cp\.async\.cg/) have["cp.async"] = 1
    if (instruction ~ /^ld\.global(\.nc)?\.v4\.[a-z]32/) have["ld.global.v4"] = 1
    if (instruction ~ /^st\.global\.v4\.[a-z]32/) have["st.global.v4"] = 1
    if (instruction ~ /^(atom|red)\./) have["atomic"] = instruction
  }
  END {
    finish()
    for (name in wanted) if (!(name in seen)) print "cuda/" name ": not in the library"
    for (name in seen) kernels++
    print kernels + 0 " kernels read"
  }' | c++filt | sort -u) || { echo "check_ptx: $1 could not be read"; exit 2; }
echo "$report"
[[ $(wc -l <<<"$report") == 1 && $report != '0 kernels read' ]]
