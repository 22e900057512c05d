#!/bin/sh
# Times every model of this kit with the tool in tool.sh: one log a model and session in logs/, in the order of
# order.txt. Cut off at any moment, it goes on where it was when started again; finished logs are never run again.
#
#   sh run.sh            time what has no log yet
#   sh run.sh convert    make the tool's own model files of the ONNX files, where it needs them
#
# Needs a POSIX shell and the tool. Send back the whole folder, or all of it but models/.
set -u
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")" || exit 1

# NAME: a program in this folder, in the one above (for the kits of several models), or on the path.
find_tool() {
  for place in . ..; do
    if [ -x "$place/$1" ]; then
      echo "$place/$1"
      return
    fi
  done
  command -v "$1"
}

# shellcheck source=/dev/null
. ./settings.sh
# shellcheck source=/dev/null
. ./tool.sh
KIT=$(cat kit.id) || exit 1
export KIT TOOL THREADS MINIMUM_RUNS MAXIMUM_RUNS TARGET_US WARMUP_RUNS WARMUP_US PRECISION

die() {
  printf 'kit: %s\n' "$1" >&2
  exit 1
}

# The start of every log: what it belongs to, and what ran.
log_head() {
  printf '#kit %s\n#log %s\n#tool %s %s\n#unit %s\n' "$KIT" "$1" "$TOOL" "$VERSION" "$TOOL_UNIT"
}

# LOG STATUS: a finished log takes its name in one step.
keep() {
  if [ "$2" -eq 0 ]; then
    mv "logs/$1.tmp" "logs/$1.log" && rm -f "logs/$1.failed"
  else
    mv "logs/$1.tmp" "logs/$1.failed"
  fi
}

# LOG MODEL SHAPES: one model, by itself.
one() {
  {
    log_head "$1"
    tool_run "$2" "$3" "logs/$1.raw"
    status=$?
    printf '#end %s\n' "$status"
  } >"logs/$1.tmp" 2>&1 </dev/null
  keep "$1" "$status"
}

# LOG MODEL SHAPES ...: several models in one start of the tool; what it leaves undone is run alone.
several() {
  tool_run_several "$@" </dev/null
  while [ $# -gt 0 ]; do
    if [ ! -s "logs/$1.log" ] && [ ! -s "logs/$1.failed" ]; then
      one "$1" "$2" "$3"
    fi
    shift 3
  done
}

flush() {
  [ $# -eq 0 ] && return
  if [ $# -eq 3 ] || [ "$TOOL_BATCH" -eq 1 ]; then
    one "$1" "$2" "$3"
  else
    several "$@"
  fi
}

# PID: whether that process is there. One that is dead and that nobody waits for still has its number.
runs() {
  kill -0 "$1" 2>/dev/null && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null
}

lock() {
  if ! mkdir lock 2>/dev/null; then
    other=$(cat lock/pid 2>/dev/null)
    if [ -n "$other" ] && runs "$other"; then
      die "expected no other run of this kit, got process $other under way. Wait for it, end it, or remove lock/."
    fi
  fi
  echo $$ >lock/pid || die "cannot write to this folder"
  trap 'rm -rf lock' EXIT
  trap 'exit 130' INT
  trap 'exit 143' HUP PIPE TERM
}

# Files as they were sent, where the system can tell.
check_files() {
  if command -v sha256sum >/dev/null 2>&1; then
    sha256sum -c sums.txt >/dev/null 2>&1 || die "files differ from sums.txt. Copy the kit again."
  fi
}

# Once: of the run that began.
write_environment() {
  if [ -s environment.txt ]; then
    before=$(sed -n 's/^tool: //p' environment.txt)
    [ "$before" = "$TOOL $VERSION" ] && return
    die "logs/ is of $before, this is $TOOL $VERSION. Use that, or remove logs/ and environment.txt."
  fi
  { sh environment.sh && printf 'tool: %s %s\n' "$TOOL" "$VERSION"; } >environment.tmp && mv environment.tmp environment.txt
}

if [ "${1-}" = convert ]; then
  for model in models/*.onnx; do
    [ -s "${model%.onnx}.$TOOL_SUFFIX" ] || tool_convert "$model" || die "cannot convert $model"
  done
  exit 0
fi

VERSION=$(tool_version </dev/null) || die "$TOOL_NEEDS"
[ -n "$VERSION" ] || die "$TOOL_NEEDS"
export VERSION
mkdir -p logs || die "cannot write to this folder"
lock
check_files
write_environment
total=$(wc -l <order.txt | tr -d ' ')
done=0
rm -f logs/*.tmp logs/*.raw logs/*.failed
set --
while read -r log model shapes; do
  done=$((done + 1))
  [ -s "logs/$log.log" ] && continue
  model=${model%.*}.$TOOL_SUFFIX
  [ -f "$model" ] || die "expected $model, found none. Where the kit holds other files: sh run.sh convert"
  set -- "$@" "$log" "$model" "$shapes"
  if [ $# -ge $((3 * TOOL_BATCH)) ]; then
    flush "$@"
    set --
    echo "progress $done $total"
  fi
done <order.txt
flush "$@"
echo "progress $total $total"
