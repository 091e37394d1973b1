# shellcheck shell=bash
# What build.sh and bench.sh share: messages, the numbers of target.json, and what machine this is.
# It needs bash, coreutils, sed and awk only, since small images hold neither jq nor Python.
# EDGEPRUNE_ROOT stands in front of /etc, /proc, /sys and /usr/src/tensorrt.

export LC_ALL=C
export CUDA_DEVICE_ORDER=PCI_BUS_ID # so that trtexec and nvidia-smi count the GPUs alike
shopt -s inherit_errexit
readonly ROOT="${EDGEPRUNE_ROOT:-}"
any_device=no
warnings=()

note() { printf '%s\n' "$1" >&2; }

warn() {
  warnings+=("$1")
  printf 'warning: %s\n' "$1" >&2
}

fail() { # fail MESSAGE HINT
  printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
  exit 1
}

# Reads a top-level field of JSON that has one field a line, as all files of this folder do.
field() { # field FILE KEY
  sed -n 's/,$//; s/^  "'"$2"'": "\{0,1\}\(.*[^"]\)"\{0,1\}$/\1/p' "$1"
}

fact() { field target.json "$1"; }

json_string() { # a quoted JSON string of standard input; line ends become blanks
  tr '\n\t\r' '   ' | tr -d '\000-\036' | sed -e 's/\\/\\\\/g; s/"/\\"/g' -e 's/'$'\037''/\\u001f/g' -e '1s/^/"/; $s/$/"/'
}

quoted() { # quoted TEXT
  if [[ -z $1 ]]; then printf '""'; else printf '%s' "$1" | json_string; fi
}

number() { # number TEXT: itself, or null
  if [[ $1 =~ ^[0-9]+([.][0-9]+)?$ ]]; then printf '%s' "$1"; else printf 'null'; fi
}

digest() { sha256sum "$1" | cut -d ' ' -f 1; }

whole() { # whole NAME VALUE LEAST
  if [[ ! $2 =~ ^[0-9]{1,6}$ ]] || ((10#$2 < $3)); then
    fail "$1 is '$2', expected a whole number of $3 or more" "leave $1 out for the default"
  fi
}

check_folder() {
  [[ -w . ]] || fail "this folder cannot be written: $PWD" 'copy it to a place of your own'
  sha256sum --check --quiet SHA256SUMS >&2 ||
    fail 'a file of this folder is damaged or missing' 'copy the folder again, or unpack it again'
}

find_trtexec() { # sets trtexec, tensorrt, major, minor
  local candidate banner number
  trtexec=''
  if [[ -n ${TRTEXEC:-} && ! -x $TRTEXEC ]]; then
    fail "TRTEXEC is $TRTEXEC, which cannot be run" 'set it to the path of trtexec'
  fi
  for candidate in "${TRTEXEC:-}" "$ROOT/usr/src/tensorrt/bin/trtexec" "$(command -v trtexec || true)" \
    "$ROOT/opt/tensorrt/bin/trtexec"; do
    if [[ -n $candidate && -x $candidate ]]; then
      trtexec="$candidate"
      break
    fi
  done
  [[ -n $trtexec ]] || fail 'trtexec is neither in /usr/src/tensorrt/bin nor on PATH' \
    'install TensorRT (on Jetson: sudo apt install nvidia-jetpack; the Python wheel has no trtexec), or set TRTEXEC'
  banner="$("$trtexec" --help 2>&1 || true)"
  number="$(sed -n 's/.*\[TensorRT v\([0-9.]\{4,\}\)\].*/\1/p' <<<"$banner" | sed -n 1p)"
  [[ -n $number ]] || fail "$trtexec does not say its TensorRT version: $(sed -n 1p <<<"$banner")" \
    'run it with --help; if a library is missing, set LD_LIBRARY_PATH to where libnvinfer is'
  version_of "$number"
  ((major * 100 + minor >= 805)) || fail "TensorRT $tensorrt is too old: 8.5 or later is needed" \
    'on Jetson, JetPack 5.1 brings 8.5 and JetPack 6.2 brings 10.3'
}

# The banner says v8602 for 8.6.2, v100300 for 10.3.0; some builds write v10.3.0.
version_of() {
  if [[ $1 == *.* ]]; then
    tensorrt="$1"
  elif ((${#1} > 4)); then
    tensorrt="$(($1 / 10000)).$(($1 / 100 % 100)).$(($1 % 100))"
  else
    tensorrt="$(($1 / 1000)).$(($1 / 100 % 10)).$(($1 % 100))"
  fi
  IFS=. read -r major minor _ <<<"$tensorrt"
}

jetpack_of() { # L4T release -> JetPack
  case "$1" in
  32.7*) printf '4.6' ;;
  35.1*) printf '5.0' ;;
  35.*) printf '5.1' ;;
  36.2* | 36.3*) printf '6.0' ;;
  36.4 | 36.4.[0-2]) printf '6.1' ;;
  36.*) printf '6.2' ;;
  38.[0-3]*) printf '7.0' ;;
  38.*) printf '7.1' ;;
  39.*) printf '7.2' ;;
  esac
}

capability_of() { # compatible strings of a device tree -> compute capability
  case "$1" in
  *tegra210*) printf '5.3' ;;
  *tegra186*) printf '6.2' ;;
  *tegra194*) printf '7.2' ;;
  *tegra234*) printf '8.7' ;;
  *tegra264*) printf '11.0' ;;
  esac
}

smi() { # smi FIELD: of the GPU that CUDA sees first
  local index="${CUDA_VISIBLE_DEVICES:-0}"
  { nvidia-smi -i "${index%%,*}" --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null || true; } | sed -n 1p
}

identify() { # sets jetson, device, l4t, jetpack, capability, driver
  local tree="$ROOT/proc/device-tree" release="$ROOT/etc/nv_tegra_release"
  jetson=no device='' l4t='' jetpack='' capability='' driver=''
  if [[ -r $release ]]; then
    jetson=yes
    l4t="$(sed -n '1s/^# R\([0-9]*\) (release), REVISION: \([0-9.]*\).*/\1.\2/p' "$release")"
    jetpack="$(jetpack_of "$l4t")"
  fi
  if [[ -r $tree/compatible ]]; then
    capability="$(capability_of "$(tr '\000' ' ' <"$tree/compatible")")"
    [[ -z $capability ]] || jetson=yes
  fi
  if [[ $jetson == yes ]]; then
    [[ ! -r $tree/model ]] || device="$(tr -d '\000' <"$tree/model")"
  elif command -v nvidia-smi >/dev/null; then
    device="$(smi name)"
    capability="$(smi compute_cap)"
    driver="$(smi driver_version)"
  fi
  [[ $capability =~ ^[0-9]+[.][0-9]+$ ]] || capability=''
  device="${device:-unknown}"
}

# A board's words in any order: 'NVIDIA Jetson Orin Nano Developer Kit' -> 'nano orin '.
words_of() {
  local word
  for word in nano nx orin thor tx1 tx2 xavier; do
    [[ ! ${1,,} =~ (^|[^a-z0-9])$word([^a-z0-9]|$) ]] || printf '%s ' "$word"
  done
}

other_device() { # other_device MESSAGE: an error, or a warning with --any-device
  if [[ $any_device == yes ]]; then
    warn "$1"
  else
    fail "$1" "run it on the target, compile for this device, or give --any-device: times will not be the target's"
  fi
}

check_device() {
  local wanted name words here
  name="$(fact target)"
  wanted="$(fact compute_capability)"
  note "device: $device${l4t:+, L4T $l4t}${jetpack:+ (JetPack $jetpack)}, TensorRT $tensorrt"
  if [[ -z $capability ]]; then
    warn "cannot tell whether this device is $name: its compute capability is unknown"
  elif [[ $capability != "$wanted" ]]; then
    other_device "this is $device with compute capability $capability, the target $name has $wanted"
  fi
  words="$(words_of "$name")"
  here="$(words_of "$device")"
  if [[ $jetson == yes && -n $here && -n $words && $here != "$words" ]]; then
    other_device "this is $device, the target is $name"
  fi
  check_look "$name"
  check_versions
}

check_look() { # what tells boards and cards apart that are of one chip
  local gpu words memory total
  gpu="$(fact gpu)"
  words=" $(sed 's/[^a-z0-9]/ /g; s/ \(ti\|laptop\)\( \|$\)/\1\2/; s/ super\( \|$\)/super\1/' <<<"${device,,}") "
  if [[ $jetson == no && -n $gpu && $device != unknown && $words != *" $gpu "* ]]; then
    warn "this is $device, the target is $1: times will not be the target's"
  fi
  memory="$(fact board_memory_mib)"
  total="$(awk '/^MemTotal:/ { print int($2 / 1024) }' "$ROOT/proc/meminfo" 2>/dev/null || true)"
  if [[ $jetson == yes && -n $total ]] && ((total * 100 < memory * 85 || total > memory)); then
    warn "this board has $total MiB of memory, the target $1 has $memory: is it the same module"
  fi
}

check_versions() {
  local lowered wanted_major wanted_minor jetpacks
  lowered="$(fact tensorrt)"
  IFS=. read -r wanted_major wanted_minor _ <<<"${lowered:-0.0}"
  if ((major * 100 + minor < wanted_major * 100 + wanted_minor)); then
    other_device "model.onnx was lowered for TensorRT $lowered, this device has $tensorrt: it may not build, or be wrong"
  elif ((wanted_major == 8 && major > 8)); then
    warn "model.onnx was lowered for TensorRT $lowered and may be slower than need be: compile with --tensorrt $major.$minor"
  fi
  jetpacks="$(fact jetpack | tr -d '[],"')"
  if [[ -n $jetpack && -n $jetpacks && " $jetpacks " != *" $jetpack"[.\ ]* ]]; then
    warn "this device has JetPack $jetpack, the target was described for $jetpacks"
  fi
}

plain_mode() { # 'MODE_30W' and '30w' are one mode
  local mode="${1^^}"
  printf '%s' "${mode#MODE_}"
}

check_power() { # sets power_mode; of a Jetson
  local wanted
  power_mode=''
  [[ $jetson == yes ]] || return 0
  wanted="$(fact power_mode)"
  if command -v nvpmodel >/dev/null; then
    power_mode="$({ nvpmodel -q 2>/dev/null || sudo -n nvpmodel -q 2>/dev/null || true; } |
      sed -n 's/^NV Power Mode: *//p' | sed -n 1p)"
  fi
  if [[ -z $power_mode ]]; then
    warn "the power mode is unknown, the target's is $wanted: look with sudo nvpmodel -q"
  elif [[ $(plain_mode "$power_mode") != "$(plain_mode "$wanted")" ]]; then
    warn "the power mode is $power_mode, the target's is $wanted: set it with sudo nvpmodel -m ID (ids are in /etc/nvpmodel.conf)"
  fi
}

check_clocks() { # sets locked, gpu_min_mhz, gpu_max_mhz, emc_mhz; of a Jetson
  local shown path
  locked=null gpu_min_mhz='' gpu_max_mhz='' emc_mhz=''
  [[ $jetson == yes ]] || return 0
  shown="$({ jetson_clocks --show 2>/dev/null || sudo -n jetson_clocks --show 2>/dev/null || true; })"
  gpu_min_mhz="$(clock_of GPU MinFreq <<<"$shown")"
  gpu_max_mhz="$(clock_of GPU MaxFreq <<<"$shown")"
  emc_mhz="$(clock_of EMC CurrentFreq <<<"$shown")"
  for path in "$ROOT"/sys/class/devfreq/*; do # what jetson_clocks tells root, this tells everybody
    if [[ -z $gpu_max_mhz && ${path##*/} =~ (gpu|ga10b|gv11b|gp10b)$ && -r $path/max_freq ]]; then
      gpu_min_mhz="$(($(<"$path/min_freq") / 1000000))"
      gpu_max_mhz="$(($(<"$path/max_freq") / 1000000))"
    fi
  done
  if [[ -z $gpu_max_mhz ]]; then
    warn 'the clocks are unknown: look with sudo jetson_clocks --show'
  elif ((gpu_min_mhz == gpu_max_mhz)); then
    locked=true
  else
    locked=false
    warn "the GPU clock is not locked ($gpu_min_mhz to $gpu_max_mhz MHz), so times vary: sudo jetson_clocks"
  fi
}

clock_of() { # clock_of UNIT FIELD: in MHz, of what jetson_clocks shows
  sed -n "s/^$1 .*$2=\([0-9]*\)[0-9]\{6\}.*/\1/p" | sed -n 1p
}

overcurrent() { # how often the board throttled itself for too much current since it started
  local file sum=0
  for file in "$ROOT"/sys/class/hwmon/hwmon*/oc*_event_cnt; do
    [[ ! -r $file ]] || sum=$((sum + $(<"$file")))
  done
  printf '%d' "$sum"
}

machine_json() { # what identify, check_power and check_clocks found: fields of measured.json
  cat <<JSON
  "device": $(quoted "$device"),
  "compute_capability": "$capability",
  "l4t": "$l4t",
  "jetpack": "$jetpack",
  "driver": $(quoted "$driver"),
  "power_mode": $(quoted "$power_mode"),
  "clocks": {"locked": $locked, "gpu_min_mhz": $(number "$gpu_min_mhz"), "gpu_max_mhz": $(number "$gpu_max_mhz"), "memory_mhz": $(number "$emc_mhz")},
JSON
}
