#!/usr/bin/env bash
# Build TensorRT engines from the ONNX files of this folder on this device, time them, write measured.json.
# Usage: ./build_and_time.sh [--build-only]
# Environment: TRTEXEC=path of trtexec   WORKSPACE_MIB=2048   DURATION_S=10
set -euo pipefail
export LC_ALL=C

readonly TARGET='@TARGET@'
readonly PRECISION='@PRECISION@'
readonly WORKSPACE_MIB="${WORKSPACE_MIB:-2048}"
readonly DURATION_S="${DURATION_S:-10}"

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

note() {
  printf '%s\n' "$1" >&2
}

find_trtexec() {
  local candidate
  for candidate in "${TRTEXEC:-}" /usr/src/tensorrt/bin/trtexec "$(command -v trtexec || true)"; do
    if [[ -n "$candidate" && -x "$candidate" ]]; then
      printf '%s' "$candidate"
      return
    fi
  done
  fail 'trtexec is not in /usr/src/tensorrt/bin nor on PATH: install TensorRT (on Jetson: sudo apt install nvidia-jetpack), or set TRTEXEC'
}

# trtexec names its version as v8602 (8.6.2) up to 9, as v100300 (10.3.0) from 10 on.
tensorrt_version() {
  local banner number
  banner="$("$1" --help 2>&1 || true)"
  number="$(sed -n 's/.*\[TensorRT v\([0-9]\{4,\}\)\].*/\1/p' <<<"$banner" | head -n 1)"
  [[ -n "$number" ]] || fail "$1 does not say its TensorRT version"
  if ((number >= 100000)); then
    printf '%d.%d.%d' $((number / 10000)) $((number / 100 % 100)) $((number % 100))
  else
    printf '%d.%d.%d' $((number / 1000)) $((number / 100 % 10)) $((number % 100))
  fi
}

json_string() {
  printf '%s' "$1" | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g'
}

device_name() {
  if [[ -r /proc/device-tree/model ]]; then
    tr -d '\000' </proc/device-tree/model
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1
  else
    printf 'unknown'
  fi
}

power_mode() {
  if command -v nvpmodel >/dev/null; then
    (nvpmodel -q 2>/dev/null || true) | sed -n 's/^NV Power Mode: *//p' | head -n 1
  fi
}

build() { # build NAME: NAME.onnx -> NAME.engine
  local part="$1.engine.part"
  note "building $1.engine with TensorRT $VERSION (this can take minutes)"
  if ! "$TRTEXEC_PATH" --onnx="$1.onnx" --saveEngine="$part" "${TYPING[@]}" "$ONLY_BUILD" \
    --memPoolSize=workspace:"$WORKSPACE_MIB" --timingCacheFile=timing.cache --builderOptimizationLevel=3 \
    --profilingVerbosity=detailed >"$1.build.log" 2>&1; then
    tail -n 5 "$1.build.log" >&2
    fail "trtexec did not build $1.onnx: see $1.build.log"
  fi
  mv "$part" "$1.engine"
}

# GPU compute time, without transfers. The flags are the defaults of TensorRT 11, spelled out for 8 and 10.
time_engine() { # time_engine NAME: NAME.engine -> NAME.times.json
  note "timing $1.engine for $DURATION_S s"
  if ! "$TRTEXEC_PATH" --loadEngine="$1.engine" --useCudaGraph --useSpinWait --noDataTransfers --warmUp=1000 \
    --duration="$DURATION_S" --iterations=200 --avgRuns=100 --exportTimes="$1.times.json" >"$1.time.log" 2>&1; then
    tail -n 5 "$1.time.log" >&2
    fail "trtexec did not run $1.engine: see $1.time.log"
  fi
}

# Nearest-rank percentiles of the computeMs fields; a median between two samples is their mean.
summary() { # summary NAME
  grep -o '"computeMs"[^,}]*' "$1.times.json" | sed 's/.*: *//' | sort -g | awk -v sha="$(sha256sum "$1.onnx" | cut -d' ' -f1)" '
    { t[NR] = $1 }
    function rank(p) { r = int(NR * p); if (r < NR * p) r++; return t[r] }
    END {
      if (NR == 0) exit 1
      median = NR % 2 ? t[(NR + 1) / 2] : (t[NR / 2] + t[NR / 2 + 1]) / 2
      printf "{\"sha256\": \"%s\", \"samples\": %d, \"gpu_compute_p50_ms\": %.6g, \"gpu_compute_p90_ms\": %.6g, \"gpu_compute_p99_ms\": %.6g}", sha, NR, median, rank(0.9), rank(0.99)
    }' || fail "no computeMs in $1.times.json: is this trtexec older than 8.5"
}

cd "$(dirname "${BASH_SOURCE[0]}")"
case "${1:-}" in
'' | --build-only) ;;
*) fail "unknown option $1: expected --build-only or nothing" ;;
esac
sha256sum --check --quiet SHA256SUMS || fail 'a file of this folder is damaged: copy the folder again'

TRTEXEC_PATH="$(find_trtexec)"
VERSION="$(tensorrt_version "$TRTEXEC_PATH")"
IFS=. read -r MAJOR MINOR _ <<<"$VERSION"
((MAJOR * 100 + MINOR >= 805)) || fail "TensorRT $VERSION is too old: 8.5 or later is needed"
ONLY_BUILD=--skipInference
((MAJOR * 100 + MINOR >= 806)) || ONLY_BUILD=--buildOnly
TYPING=()
if [[ $PRECISION == fp16 ]] && ((MAJOR < 10)); then
  TYPING=(--fp16) # no strong typing before TensorRT 10
elif ((MAJOR == 10)); then
  TYPING=(--stronglyTyped) # the only mode from TensorRT 11 on
fi

names=(model)
[[ ! -f dense.onnx ]] || names=(dense model)
for name in "${names[@]}"; do
  build "$name"
done
[[ "${1:-}" != --build-only ]] || exit 0

dense=null
for name in "${names[@]}"; do
  time_engine "$name"
done
pruned="$(summary model)"
[[ ! -f dense.onnx ]] || dense="$(summary dense)"
cat >measured.json.part <<JSON
{
  "schema": 1,
  "kind": "measured",
  "target": "$TARGET",
  "precision": "$PRECISION",
  "device": "$(json_string "$(device_name)")",
  "power_mode": "$(json_string "$(power_mode)")",
  "tensorrt": "$VERSION",
  "date": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "dense": $dense,
  "pruned": $pruned
}
JSON
mv measured.json.part measured.json
note 'wrote measured.json'
cat measured.json
