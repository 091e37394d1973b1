#!/usr/bin/env bash
# Build the TensorRT engines of this folder on this device: model.onnx -> model.engine, dense.onnx -> dense.engine.
# Usage: ./build.sh [--any-device] [--low-memory] [--rebuild]
#   --any-device   build although board, compute capability or TensorRT are not the target's
#   --low-memory   try although too little memory seems to be free
#   --rebuild      build again what is up to date
# Environment: TRTEXEC=path of trtexec   WORKSPACE_MIB=memory for the builder's trials (default: by free memory, up to 2048)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=common.sh
source ./common.sh

low_memory=no rebuild=no
for argument in "$@"; do
  case "$argument" in
  --any-device) any_device=yes ;;
  --low-memory) low_memory=yes ;;
  --rebuild) rebuild=yes ;;
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' build.sh; exit 0 ;;
  *) fail "unknown option $argument" 'expected --any-device, --low-memory or --rebuild' ;;
  esac
done

check_disk() {
  local free needed
  needed="$(fact disk_mib)"
  free="$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')"
  ((${free:-0} >= needed)) || fail "$free MiB of disk are free here, about $needed MiB are needed" \
    'free some space, or copy this folder to a larger disk'
}

# On a Jetson the GPU's memory is the board's; elsewhere it is the GPU's own.
free_memory() {
  if [[ $jetson == no ]]; then
    smi memory.free
  elif [[ -r $ROOT/proc/meminfo ]]; then
    awk '/^MemAvailable:/ { print int($2 / 1024) }' "$ROOT/proc/meminfo"
  fi
}

choose_workspace() { # sets workspace
  local free needed least
  [[ -z ${WORKSPACE_MIB:-} ]] || whole WORKSPACE_MIB "$WORKSPACE_MIB" 16
  workspace="${WORKSPACE_MIB:-2048}"
  free="$(free_memory)"
  if [[ ! $free =~ ^[0-9]+$ ]]; then
    warn 'cannot tell how much memory is free'
    return
  fi
  needed="$(fact memory_mib)"
  least="${WORKSPACE_MIB:-256}"
  if ((free < needed + least)); then
    local message="$free MiB of memory are free, about $((needed + least)) MiB are needed to build"
    [[ $low_memory == yes ]] || fail "$message" "stop the desktop (sudo systemctl isolate multi-user.target) and other \
programs, add swap (fallocate -l 8G, mkswap, swapon), give a smaller WORKSPACE_MIB, or try with --low-memory"
    warn "$message"
  fi
  if [[ -z ${WORKSPACE_MIB:-} ]] && ((free - needed < workspace)); then
    workspace=$((free - needed < least ? least : free - needed))
  fi
}

choose_flags() { # sets flags, those that depend on the version
  flags=()
  if ((major < 9)); then
    [[ $(fact precision) != fp16 ]] || flags+=(--fp16) # weak typing: the builder may choose fp16
  elif ((major < 11)); then
    flags+=(--stronglyTyped) # types as the graph says; from 11 on there is no other way
  fi
  if ((major * 100 + minor >= 806)); then
    flags+=(--skipInference --builderOptimizationLevel=3)
  else
    flags+=(--buildOnly)
  fi
}

# What the builder measured once it need not measure again. The cache belongs to one TensorRT on one kind of device.
choose_cache() { # sets cache
  local folder="${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/edgeprune"
  cache=()
  if mkdir -p "$folder" 2>/dev/null && [[ -w $folder ]]; then
    cache=(--timingCacheFile="$folder/timing-$tensorrt-$(tr -cs 'A-Za-z0-9\n' - <<<"$device").cache")
  else
    note "no timing cache: $folder cannot be written"
  fi
}

up_to_date() { # up_to_date NAME
  local record="$1.engine.json"
  [[ $rebuild == no && -f $record && -f $1.engine ]] &&
    [[ $(field "$record" onnx_sha256) == "$(digest "$1.onnx")" ]] &&
    [[ $(field "$record" engine_sha256) == "$(digest "$1.engine")" ]] &&
    [[ $(field "$record" tensorrt) == "$tensorrt" && $(field "$record" device) == "$device" ]]
}

explain() { # explain NAME STATUS: ends the script with what the log says
  local errors hint="read $1.build.log"
  # A warning that some tactic wanted more memory is no reason: builds go on without it.
  errors="$(grep -vF '[W]' "$1.build.log" | grep -E '\[E\]|[Ee]rror|No space|bad_alloc|Killed' || true)"
  tail -n 5 <<<"${errors:-$(tail -n 5 "$1.build.log")}" >&2
  if (($2 == 137)) || grep -qiE 'out ?of ?memory|bad_alloc|cuda failure: 2|insufficient memory' <<<"$errors"; then
    hint='there was too little memory: stop other programs, add swap, or give a smaller WORKSPACE_MIB'
  elif grep -qi 'no space left' <<<"$errors"; then
    hint='the disk is full: free some space'
  elif grep -qiE 'no importer|unsupported.?node|unsupportedNode' <<<"$errors"; then
    hint="TensorRT $tensorrt lacks an operator of the graph: compile with --tensorrt $major.$minor, \`edgeprune check\` names it"
  elif grep -qi 'unknown option' <<<"$errors"; then
    hint="this trtexec does not know a flag: report it together with $1.build.log"
  fi
  fail "trtexec did not build $1.onnx (exit status $2)" "$hint"
}

# With weak typing the builder would run in fp16 what overflows there, a LayerNormalization that is spelled out above all.
choose_precisions() { # choose_precisions NAME: sets precisions
  precisions=()
  if ((major < 9)) && [[ $(fact precision) == fp16 && -f $1.fp32.txt ]]; then
    precisions=(--precisionConstraints=obey
      --layerPrecisions="$(awk '{ printf "%s%s:fp32", (NR > 1 ? "," : ""), $0 }' "$1.fp32.txt")")
  fi
}

build() { # build NAME
  local part="$1.engine.part" status=0 began=$SECONDS
  if up_to_date "$1"; then
    note "$1.engine is up to date"
    return
  fi
  note "building $1.engine with TensorRT $tensorrt, workspace $workspace MiB (this can take minutes)"
  rm -f "$1.engine" "$1.engine.json"
  choose_precisions "$1"
  "$trtexec" --onnx="$1.onnx" --saveEngine="$part" "${flags[@]}" "${precisions[@]}" "${cache[@]}" \
    --memPoolSize=workspace:"$workspace" --profilingVerbosity=detailed >"$1.build.log" 2>&1 || status=$?
  if ((status != 0)) || [[ ! -s $part ]]; then
    explain "$1" "$status"
  fi
  if ! { record "$1" "$part" $((SECONDS - began)) >"$1.engine.json.part" && mv "$part" "$1.engine" &&
    mv "$1.engine.json.part" "$1.engine.json"; }; then
    fail "cannot write $1.engine" 'free some disk space'
  fi
  note "built $1.engine: $(($(stat -c %s "$1.engine") / 1024)) KiB in $((SECONDS - began)) s"
}

record() { # record NAME PART SECONDS
  cat <<JSON
{
  "schema": 1,
  "onnx_sha256": "$(digest "$1.onnx")",
  "engine_sha256": "$(digest "$2")",
  "engine_bytes": $(stat -c %s "$2"),
  "tensorrt": "$tensorrt",
  "device": $(quoted "$device"),
  "power_mode": $(quoted "$power_mode"),
  "flags": $(quoted "${flags[*]}"),
  "workspace_mib": $workspace,
  "seconds": $3
}
JSON
}

trap 'rm -f ./*.part' EXIT
check_folder
find_trtexec
identify
check_device
check_power
check_clocks
events="$(overcurrent)"
((events == 0)) || warn "the board throttled itself $events times for too much current since it started: a stronger power supply, or a lower power mode"
check_disk
choose_workspace
choose_flags
choose_cache
[[ ! -f dense.onnx ]] || build dense
build model
note 'next: ./bench.sh'
