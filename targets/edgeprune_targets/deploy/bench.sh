#!/usr/bin/env bash
# Time the engines that build.sh made, and write measured.json. Times are GPU compute, without transfers.
# Usage: ./bench.sh [--any-device] [--no-profile]
#   --any-device   time although this is not the target
#   --no-profile   leave out the run that times each layer
# Environment: ROUNDS=3  DURATION_S=5  WARMUP_MS=1000  TRTEXEC=path of trtexec
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=common.sh
source ./common.sh

profile=yes
for argument in "$@"; do
  case "$argument" in
  --any-device) any_device=yes ;;
  --no-profile) profile=no ;;
  -h | --help) sed -n '2,6s/^# \{0,1\}//p' bench.sh; exit 0 ;;
  *) fail "unknown option $argument" 'expected --any-device or --no-profile' ;;
  esac
done
readonly ROUNDS="${ROUNDS:-3}" DURATION_S="${DURATION_S:-5}" WARMUP_MS="${WARMUP_MS:-1000}"
whole ROUNDS "$ROUNDS" 1
whole DURATION_S "$DURATION_S" 1
whole WARMUP_MS "$WARMUP_MS" 0

watcher=''
work=''
clean_up() {
  [[ -z $watcher ]] || kill "$watcher" 2>/dev/null || true
  [[ -z $work ]] || rm -rf "$work"
  rm -f measured.json.part
}
trap clean_up EXIT

check_engine() { # check_engine NAME
  local made
  [[ -f $1.engine && -f $1.engine.json ]] || fail "there is no $1.engine" 'run ./build.sh first'
  [[ $(field "$1.engine.json" engine_sha256) == "$(digest "$1.engine")" ]] ||
    fail "$1.engine is not what build.sh made" 'run ./build.sh again'
  [[ $(field "$1.engine.json" onnx_sha256) == "$(digest "$1.onnx")" ]] ||
    fail "$1.engine was built from another $1.onnx" 'run ./build.sh again'
  made="$(field "$1.engine.json" tensorrt)"
  [[ $made == "$tensorrt" ]] ||
    fail "$1.engine was built by TensorRT $made, this is $tensorrt" 'run ./build.sh again: an engine fits one version'
}

# trtexec 8 to 10 times transfers too and launches kernel by kernel unless told not to; 11 is so by itself.
choose_flags() { # sets flags
  flags=()
  ((major >= 11)) || flags=(--useCudaGraph --useSpinWait --noDataTransfers)
}

watch_device() { # watch_device FILE: in the background, until unwatch
  watcher=''
  if [[ $jetson == yes ]] && command -v tegrastats >/dev/null; then
    tegrastats --interval 100 >>"$1" 2>/dev/null &
    watcher=$!
  elif [[ $jetson == no ]] && command -v nvidia-smi >/dev/null; then
    local index="${CUDA_VISIBLE_DEVICES:-0}"
    nvidia-smi -i "${index%%,*}" -lms 100 --format=csv,noheader,nounits \
      --query-gpu=utilization.gpu,clocks.sm,clocks.mem,temperature.gpu,power.draw >>"$1" 2>/dev/null &
    watcher=$!
  fi
}

unwatch() {
  [[ -n $watcher ]] || return 0
  kill "$watcher" 2>/dev/null || true
  wait "$watcher" 2>/dev/null || true
  watcher=''
}

run_trtexec() { # run_trtexec NAME WHAT FLAGS...
  local name="$1" what="$2" status=0
  shift 2
  "$trtexec" --loadEngine="$name.engine" "$@" >"$work/log" 2>&1 || status=$?
  ((status != 0)) || return 0
  unwatch
  cp "$work/log" "$name.bench.log" || true
  tail -n 5 "$work/log" >&2
  fail "trtexec did not $what $name.engine (exit status $status)" "read $name.bench.log"
}

time_engine() { # time_engine NAME ROUND
  watch_device "$work/$1.watch"
  run_trtexec "$1" time "${flags[@]}" --warmUp="$WARMUP_MS" --duration="$DURATION_S" --iterations=100 --avgRuns=100 \
    --exportTimes="$work/times.json"
  unwatch
  grep -o '"computeMs"[^,}]*' "$work/times.json" | sed 's/.*: *//' | sort -g >"$work/$1.$2.times" ||
    true # an empty file is told below
  percentiles "$work/$1.$2.times" "$1" >/dev/null
}

profile_engine() { # profile_engine NAME: layer by layer, which is slower than the whole
  run_trtexec "$1" profile --warmUp="$WARMUP_MS" --duration=2 --iterations=50 --profilingVerbosity=detailed \
    --dumpProfile --exportProfile="$work/$1.profile" --exportLayerInfo="$work/$1.layers"
}

# Nearest-rank percentiles of sorted times; a median between two samples is their mean.
percentiles() {
  awk '
    $1 > 0 { t[++n] = $1 }
    function rank(p) { r = int(n * p); if (r < n * p) r++; return t[r] }
    END {
      if (n == 0) exit 1
      median = n % 2 ? t[(n + 1) / 2] : (t[n / 2] + t[n / 2 + 1]) / 2
      printf "\"samples\": %d, \"p50_ms\": %.6g, \"p90_ms\": %.6g, \"p99_ms\": %.6g", n, median, rank(0.9), rank(0.99)
    }' "$1" || fail "trtexec wrote no time for $2.engine" 'is this a trtexec of TensorRT 8.5 or later'
}

rounds_of() { # rounds_of NAME
  local round comma=''
  for ((round = 1; round <= ROUNDS; round++)); do
    printf '%s{%s}' "$comma" "$(percentiles "$work/$1.$round.times" "$1")"
    comma=', '
  done
}

text_of() { # text_of FILE: as a JSON string, so that nothing in trtexec's own JSON can break this file
  if [[ -s $1 ]]; then sed 's/^[[:space:]]*//' "$1" | tr -d '\n' | json_string; else printf 'null'; fi
}

engine_json() { # engine_json NAME
  sort -g -m "$work/$1".*.times >"$work/$1.all"
  cat <<JSON
{
    "onnx_sha256": "$(digest "$1.onnx")",
    "engine_sha256": "$(digest "$1.engine")",
    "engine_bytes": $(stat -c %s "$1.engine"),
    "build_flags": $(quoted "$(field "$1.engine.json" flags)"),
    $(percentiles "$work/$1.all" "$1"),
    "rounds": [$(rounds_of "$1")],
    "sensors": $(sensors_json "$work/$1.watch"),
    "profile": $(text_of "$work/$1.profile"),
    "layers": $(text_of "$work/$1.layers")
  }
JSON
}

sensors_json() { # sensors_json FILE
  local from=nvidia-smi
  [[ $jetson == no ]] || from=tegrastats
  [[ -s $1 ]] || { printf 'null'; return; }
  awk -v from="$from" -f sensors.awk "$1" || fail "cannot read what $from said" 'is this awk complete'
}

p50_of() { # p50_of TIMES NAME
  printf '%s\n' "$(percentiles "$1" "$2" | sed 's/.*"p50_ms": \([^,]*\).*/\1/')"
}

check_spread() { # whether the rounds of one engine agree, and the GPU kept its clock
  local name round
  for name in "${names[@]}"; do
    for ((round = 1; round <= ROUNDS; round++)); do p50_of "$work/$name.$round.times" "$name"; done | sort -g |
      awk '{ t[NR] = $1 } END { exit t[NR] > 1.05 * t[1] }' ||
      warn "the rounds of $name.engine differ by more than 5 %: lock the clocks (sudo jetson_clocks), cool the device, or give a longer DURATION_S"
    sensors_json "$work/$name.watch" | sed 's/.*"gpu_mhz_min": \([0-9.]*\),.*"gpu_mhz_max": \([0-9.]*\),.*/\1 \2/' |
      awk '{ exit NF == 2 && $1 < 0.9 * $2 }' ||
      warn "the GPU clock fell by more than a tenth while $name.engine ran: heat, power limit, or clocks that are not locked"
  done
}

warnings_json() {
  local each comma=''
  for each in "${warnings[@]}"; do
    printf '%s%s' "$comma" "$(quoted "$each")"
    comma=', '
  done
}

measured_json() { # measured_json DENSE PRUNED
  cat <<JSON
{
  "schema": 1,
  "kind": "measured",
  "target": "$(fact target)",
  "precision": "$(fact precision)",
  "source_sha256": "$(fact source_sha256)",
  "plan_sha256": "$(fact plan_sha256)",
  "tensorrt": "$tensorrt",
  "lowered_for": "$(fact tensorrt)",
$(machine_json)
  "overcurrent_events": $(($(overcurrent) - events)),
  "date": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "settings": {"rounds": $ROUNDS, "duration_s": $DURATION_S, "warmup_ms": $WARMUP_MS, "flags": $(quoted "${flags[*]}")},
  "warnings": [$(warnings_json)],
  "dense": $1,
  "pruned": $2
}
JSON
}

check_folder
find_trtexec
identify
check_device
check_power
check_clocks
choose_flags
names=(model)
[[ ! -f dense.onnx ]] || names=(dense model)
for name in "${names[@]}"; do check_engine "$name"; done
work="$(mktemp -d ./.bench.XXXXXX)" || fail 'cannot write into this folder' 'free some disk space'
events="$(overcurrent)"
# Dense and pruned take turns, and the first in a round is the last in the next: heat and clocks meet both alike.
for ((round = 1; round <= ROUNDS; round++)); do
  note "round $round of $ROUNDS"
  order=("${names[@]}")
  ((round % 2)) || order=(model "${names[@]::${#names[@]}-1}")
  for name in "${order[@]}"; do time_engine "$name" "$round"; done
done
if [[ $profile == yes ]]; then
  for name in "${names[@]}"; do profile_engine "$name"; done
fi
(($(overcurrent) == events)) || warn 'the board throttled itself for too much current while it was timed'
check_spread
dense=null
[[ ! -f dense.onnx ]] || dense="$(engine_json dense)"
pruned="$(engine_json model)"
if ! { measured_json "$dense" "$pruned" >measured.json.part && mv measured.json.part measured.json; }; then
  fail 'cannot write measured.json' 'free some disk space'
fi
note 'wrote measured.json'
printf 'measured on %s, TensorRT %s%s\n' "$device" "$tensorrt" "${power_mode:+, $power_mode}"
for name in "${names[@]}"; do
  printf '  %-6s %s ms (median GPU compute)\n' "$name" "$(p50_of "$work/$name.all" "$name")"
done
[[ ! -f dense.onnx ]] || awk -v dense="$(p50_of "$work/dense.all" dense)" -v pruned="$(p50_of "$work/model.all" model)" \
  'BEGIN { printf "  speedup %.3g, measured\n", dense / pruned }'
printf 'bring measured.json back: edgeprune report OUT --measured measured.json\n'
