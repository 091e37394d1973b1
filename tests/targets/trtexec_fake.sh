#!/usr/bin/env bash
# Stands in for trtexec: the banner, the flags it accepts and the JSON it writes are those of the real one.
set -euo pipefail
version="${FAKE_VERSION:-100300}"
printf '&&&& RUNNING TensorRT.trtexec [TensorRT v%s] # trtexec %s\n' "$version" "$*"
printf '%s\n' "$*" >>"${FAKE_LOG:?}"
times=
for argument in "$@"; do
  case "$argument" in
  --help) exit 0 ;;
  --fp16) ((version < 110000)) || { echo '[E] Unknown option: --fp16'; exit 1; } ;;
  --stronglyTyped) ((version >= 100000)) || { echo '[E] Unknown option: --stronglyTyped'; exit 1; } ;;
  --skipInference) ((version >= 8600)) || { echo '[E] Unknown option: --skipInference'; exit 1; } ;;
  --saveEngine=*) printf 'engine' >"${argument#*=}" ;;
  --exportTimes=*) times="${argument#*=}" ;;
  --onnx=*) [[ -z "${FAKE_FAIL:-}" ]] || { echo '[E] [TRT] Error Code 4: no memory'; exit 1; } ;;
  --*) ;;
  *) echo "[E] Unknown option: $argument"; exit 1 ;;
  esac
done
if [[ -n "$times" ]]; then
  cat >"$times" <<'JSON'
[
  { "startEnqMs" : 0.1, "endEnqMs" : 0.2, "startH2dMs" : 0, "endH2dMs" : 0, "startComputeMs" : 0.1, "endComputeMs" : 1.35, "startD2hMs" : 0, "endD2hMs" : 0, "h2dMs" : 0, "computeMs" : 1.25, "d2hMs" : 0, "latencyMs" : 1.25 }
, { "startEnqMs" : 1.1, "endEnqMs" : 1.2, "startH2dMs" : 0, "endH2dMs" : 0, "startComputeMs" : 1.4, "endComputeMs" : 12.4, "startD2hMs" : 0, "endD2hMs" : 0, "h2dMs" : 0, "computeMs" : 11, "d2hMs" : 0, "latencyMs" : 11 }
, { "startEnqMs" : 2.1, "endEnqMs" : 2.2, "startH2dMs" : 0, "endH2dMs" : 0, "startComputeMs" : 12.5, "endComputeMs" : 13.75, "startD2hMs" : 0, "endD2hMs" : 0, "h2dMs" : 0, "computeMs" : 1.75, "d2hMs" : 0, "latencyMs" : 1.25 }
, { "startEnqMs" : 3.1, "endEnqMs" : 3.2, "startH2dMs" : 0, "endH2dMs" : 0, "startComputeMs" : 14, "endComputeMs" : 15, "startD2hMs" : 0, "endD2hMs" : 0, "h2dMs" : 0, "computeMs" : 9.5e-1, "d2hMs" : 0, "latencyMs" : 0.95 }
]
JSON
fi
