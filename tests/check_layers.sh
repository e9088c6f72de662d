#!/bin/bash
# Holds the sources to DESIGN's layers: who may include whom, every op has a case in
# tests/op_cases.cpp, no conditional compilation, two macros. Prints file:line of each breach.
# usage: tests/check_layers.sh [root of the source tree]
set -u -o pipefail
cd "${1:-$(dirname "$0")/..}" || exit 2

sources() {  # folders... -> their source files
  local folder
  for folder in "$@"; do
    [[ ! -d $folder ]] || find "$folder" -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu'
  done | sort
}

# stdin: files. Includes by quotes are written from the root, so their first part is the folder.
check_includes() {
  xargs -r awk '
    BEGIN {
      allowed["engine"] = " engine "
      allowed["cuda"] = " cuda engine "
      allowed["autograd"] = " autograd engine "
      allowed["models"] = " models autograd engine "
      allowed["apps"] = " apps models autograd engine "
      allowed["tests"] = " tests apps models autograd engine cuda "
      excused = "apps/common/bench_ops.cpp tests/op_cases.h"  # times what the tests check
    }
    /^[ \t]*#[ \t]*include/ {
      target = $0
      sub(/^[ \t]*#[ \t]*include[ \t]*/, "", target)
      quoted = target ~ /^"/
      sub(/^["<]/, "", target); sub(/[">].*$/, "", target)
      from = FILENAME; sub(/\/.*/, "", from)
      to = target; sub(/\/.*/, "", to)
      known = target ~ /\// && (to in allowed)
      if (!known && quoted)
        print FILENAME ":" FNR ": include of \"" target "\" must be written from the root, as \"" from "/...\""
      if (known && !quoted)
        print FILENAME ":" FNR ": include of <" target "> must use quotes"
      if (known && index(allowed[from], " " to " ") == 0 && FILENAME " " target != excused)
        print FILENAME ":" FNR ": " from "/ must not include " to "/ (" target ")"
    }'
}

# stdin: files. In product code #if stands in one place: CLIP_HOST_DEVICE in engine/scalar_math.h.
check_preprocessor() {
  xargs -r awk '
    /^[ \t]*#[ \t]*(if|ifdef|ifndef|elif|elifdef|elifndef)([^a-z]|$)/ {
      excused = FILENAME == "engine/scalar_math.h" && /__CUDACC__/
      if (!excused || ++conditions > 1)
        print FILENAME ":" FNR ": conditional compilation (choose a file at link time): " $0
    }
    /^[ \t]*#[ \t]*(define|undef)/ {
      macro = $0
      sub(/^[ \t]*#[ \t]*(define|undef)[ \t]+/, "", macro); sub(/[^A-Za-z0-9_].*/, "", macro)
      if (!(FILENAME == "engine/check.h" && macro == "CLIP_CHECK") &&
          !(FILENAME == "engine/scalar_math.h" && macro == "CLIP_HOST_DEVICE"))
        print FILENAME ":" FNR ": macro " macro " (only CLIP_CHECK and CLIP_HOST_DEVICE exist)"
    }'
}

# Declarations of autograd/ops.h start in the first column: type, name, parenthesis. A name declared
# k times needs k calls in op_cases.cpp.
check_op_cases() {
  local ops=autograd/ops.h cases=tests/op_cases.cpp
  [[ -f $ops ]] || { echo "$ops:1: not found"; return; }
  [[ -f $cases ]] || { echo "$cases:1: not found, so no op of $ops has a case"; return; }
  awk -v ops="$ops" '
    { sub(/\/\/.*/, "") }
    FILENAME == ops && match($0, /^[A-Za-z_[][][A-Za-z0-9_:<>,&* ]*[ &*>][a-z_][a-z0-9_]*\(/) {
      name = substr($0, 1, RLENGTH - 1); sub(/.*[^a-z0-9_]/, "", name)
      declared[name]++; line[name] = FNR
    }
    FILENAME != ops {
      rest = $0
      while (match(rest, /[A-Za-z_][A-Za-z0-9_]*\(/)) {
        called[substr(rest, RSTART, RLENGTH - 1)]++
        rest = substr(rest, RSTART + RLENGTH)
      }
    }
    END {
      for (name in declared) {
        found++
        if (called[name] + 0 < declared[name])
          print ops ":" line[name] ": " name " is declared " declared[name] " time(s) and has " \
                called[name] + 0 " case(s) in tests/op_cases.cpp"
      }
      if (!found) print ops ":1: no function declaration recognised"
    }' "$ops" "$cases" | sort -t : -k 2n
}

breaches=$(
  sources engine cuda autograd models apps tests | check_includes &&
    sources engine cuda autograd models apps | check_preprocessor &&
    check_op_cases
) || { echo 'check-layers: a check could not run' >&2; exit 2; }
[[ -z $breaches ]] || { printf '%s\n' "$breaches"; echo "check-layers: $(wc -l <<<"$breaches") breach(es)"; exit 1; }
echo "check-layers: $(sources engine cuda autograd models apps tests | wc -l) files keep to the layers"
