#!/bin/sh
# What may change this machine's times, as `key: value` lines. Reads only; what a system does not have is left out.
say() { [ -n "$2" ] && printf '%s: %s\n' "$1" "$2"; }

have() { command -v "$1" >/dev/null 2>&1; }

say system "$(uname -a)"
say machine "$(uname -m)"
if [ -r /proc/cpuinfo ]; then
  sed -n '/^$/q; s/[[:space:]]*:[[:space:]]*/: /; s/^/cpuinfo /p' /proc/cpuinfo
elif have sysctl; then
  say 'cpuinfo model name' "$(sysctl -n machdep.cpu.brand_string 2>/dev/null)"
fi
if have nproc; then
  say cores "$(nproc)"
elif have sysctl; then
  say cores "$(sysctl -n hw.ncpu 2>/dev/null)"
fi
[ -r /proc/meminfo ] && say memory_kb "$(sed -n 's/^MemTotal:[^0-9]*\([0-9]*\).*/\1/p' /proc/meminfo)"
[ -r /proc/device-tree/model ] && say board "$(tr -d '\000' </proc/device-tree/model)"
have getprop && say board "$(getprop ro.product.model)"
governor=/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor
[ -r "$governor" ] && say governor "$(cat "$governor")"
[ -r /proc/loadavg ] && say load "$(cut -d ' ' -f 1-3 /proc/loadavg)"
say date "$(date -u +%Y-%m-%d)"
exit 0
