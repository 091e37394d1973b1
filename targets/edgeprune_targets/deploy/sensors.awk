# What tegrastats or nvidia-smi said while an engine ran, as one line of JSON. awk -v from=tegrastats -f sensors.awk FILE
# Clocks and power are those of the lines with a busy GPU, since trtexec also loads the engine; temperatures are maxima.

function largest(list, parts, i, most) {
  gsub(/\[/, "", list)
  gsub(/\]/, "", list)
  split(list, parts, ",")
  for (i in parts) if (parts[i] + 0 > most) most = parts[i] + 0
  return most + 0
}

function temperature(name, degrees) {
  if (degrees <= -200) return # a part that is switched off says -256
  if (!(name in hottest)) { heats[++heat_count] = name; hottest[name] = degrees }
  if (degrees > hottest[name]) hottest[name] = degrees
}

function rail(name, milliwatts) {
  if (!(name in known)) { rails[++rail_count] = name; known[name] = 1 }
  power[lines, name] = milliwatts
}

from == "tegrastats" && NF > 3 {
  lines++
  load[lines] = -1
  for (i = 1; i < NF + 1; i++) {
    if ($i == "GR3D_FREQ") { # 99%@[1300,1300], 99%@921, 45%, @[314]
      if ($(i + 1) ~ /^[0-9]+%/) load[lines] = $(i + 1) + 0
      split($(i + 1), halves, "@")
      gpu[lines] = largest(halves[2])
    } else if ($i == "EMC_FREQ") {
      split($(i + 1), halves, "@")
      emc[lines] = halves[2] + 0
    } else if ($i ~ /^[A-Za-z][A-Za-z0-9_]*@-?[0-9.]+C$/) {
      split($i, halves, "@")
      temperature(tolower(halves[1]), halves[2] + 0)
    } else if ($i ~ /^[A-Z][A-Z0-9_]*$/ && $(i + 1) ~ /^[0-9]+(mW)?\/[0-9]+(mW)?$/) {
      rail($i, $(i + 1) + 0) # now/average
    }
  }
}

from == "nvidia-smi" && NF > 3 { # load, SM clock, memory clock, temperature, watts
  lines++
  split($0, cell, /, */)
  load[lines] = cell[1] ~ /^[0-9]/ ? cell[1] + 0 : -1
  gpu[lines] = cell[2] + 0
  emc[lines] = cell[3] + 0
  if (cell[4] ~ /^[0-9]/) temperature("gpu", cell[4] + 0)
  if (cell[5] ~ /^[0-9]/) rail("board", cell[5] * 1000)
}

function number(value) { return value > 0 ? sprintf("%.6g", value) : "null" }

END {
  if (!lines) { print "null"; exit }
  for (i = 1; i <= lines; i++) if (load[i] >= 50) busy++
  for (i = 1; i <= lines; i++) {
    if (busy && load[i] < 50) continue
    used++
    if (gpu[i] > 0) {
      gpu_sum += gpu[i]; gpu_count++
      if (!gpu_min || gpu[i] < gpu_min) gpu_min = gpu[i]
      if (gpu[i] > gpu_max) gpu_max = gpu[i]
    }
    if (emc[i] > 0) { emc_sum += emc[i]; emc_count++ }
    for (r = 1; r <= rail_count; r++) {
      cell_of = i SUBSEP rails[r]
      if (cell_of in power) { sum[r] += power[cell_of]; count[r]++ }
    }
  }
  printf "{\"source\": \"%s\", \"samples\": %d, \"busy_samples\": %d", from, lines, busy
  printf ", \"gpu_mhz_min\": %s, \"gpu_mhz_mean\": %s, \"gpu_mhz_max\": %s", number(gpu_min), \
    number(gpu_count ? gpu_sum / gpu_count : 0), number(gpu_max)
  printf ", \"memory_mhz_mean\": %s, \"temperature_c\": {", number(emc_count ? emc_sum / emc_count : 0)
  for (i = 1; i <= heat_count; i++) printf "%s\"%s\": %g", (i > 1 ? ", " : ""), heats[i], hottest[heats[i]]
  printf "}, \"power_mw\": {"
  for (r = 1; r <= rail_count; r++)
    if (count[r]) printf "%s\"%s\": %.0f", (shown++ ? ", " : ""), rails[r], sum[r] / count[r]
  print "}}"
}
