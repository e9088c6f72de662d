#!/bin/bash
# Runs GoogleTest programs one after the other: a line per program, the whole output of those that
# fail, and as the last line "N passed, M failed" over all. Exits with 1 if anything failed.
# usage: [FILTER=...] [SKIP_SLOW=1] [TEST_TIMEOUT=seconds] tests/run_tests.sh program...
set -u
cd "$(dirname "$0")/.."

# Tests are many short loops: threads that spin between them would steal from each other on a busy machine.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

filter=${FILTER:-*}
[[ -z ${SKIP_SLOW:-} ]] || filter+=':-Slow*:*/Slow*'
limit=${TEST_TIMEOUT:-300}

scratch=$(mktemp -d)
child=
trap 'rm -rf "$scratch"' EXIT
# The child leads a process group of its own (timeout sees to that), with the programs it started.
trap '[[ -z $child ]] || kill -TERM -- "$child" 2>/dev/null; exit 130' INT TERM

passed=0
failed=0
for program in "$@"; do
  name=${program##*/}
  rm -rf "$scratch/tmp" "$scratch/report.xml"
  mkdir "$scratch/tmp"
  start=$EPOCHREALTIME
  TMPDIR=$scratch/tmp timeout -k 10 "$limit" "$program" --gtest_filter="$filter" \
    --gtest_output="xml:$scratch/report.xml" >"$scratch/log" 2>&1 </dev/null &
  child=$!
  { wait "$child"; status=$?; } 2>/dev/null  # keeps bash from announcing a crash
  kill -KILL -- -"$child" 2>/dev/null        # what the program started and left behind
  child=
  elapsed=$(( (${EPOCHREALTIME/./} - ${start/./}) / 1000 ))

  # A program that died wrote no report: count what it printed, and the death as one failure.
  trouble=
  if [[ -s $scratch/report.xml ]]; then
    skipped=$(grep -c '<testcase .*result="skipped"' "$scratch/report.xml")
    run=$(grep -c '<testcase .*status="run"' "$scratch/report.xml")
    bad=$(sed -n 's/^<testsuites .*failures="\([0-9]*\)".*/\1/p' "$scratch/report.xml")
    good=$(( run - skipped - bad ))
    if (( status != 0 && bad == 0 )); then trouble="exit status $status"; fi
    if (( run == 0 )) && [[ $filter == '*' ]]; then trouble='holds no test'; fi
  else
    skipped=0
    good=$(grep -c '^\[       OK \]' "$scratch/log")
    bad=$(grep -c '^\[  FAILED  \] .*([0-9]* ms)$' "$scratch/log")
    case $status in
      124 | 137) trouble="stopped after $limit s" ;;
      *) trouble="no report, exit status $status" ;;
    esac
  fi
  [[ -z $trouble ]] || (( bad += 1 ))
  (( passed += good, failed += bad ))

  line=$(printf '%-32s %4d passed %7d.%03d s' "$name" "$good" $(( elapsed / 1000 )) $(( elapsed % 1000 )))
  (( skipped == 0 )) || line+="  $skipped skipped"
  (( bad == 0 )) || line+="  $bad FAILED${trouble:+: $trouble}"
  echo "$line"
  (( bad == 0 )) || sed 's/^/    /' "$scratch/log"
done

echo "$passed passed, $failed failed"
(( failed == 0 && passed > 0 ))
