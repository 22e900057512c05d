# shellcheck shell=sh disable=SC2034
# TensorRT's trtexec.
TOOL_SUFFIX=onnx
TOOL_UNIT=ms
TOOL_BATCH=1
RUNNER=$(find_tool trtexec)
TOOL_NEEDS="expected the program trtexec in this folder, the one above or on the path, got none. It comes with TensorRT."

tool_version() { "$RUNNER" --help 2>&1 | sed -n 's/.*\[TensorRT v\([0-9]*\)\].*/\1/p' | head -n 1; }

tool_run() {
  fp16=
  [ "$PRECISION" = float16 ] && fp16=--fp16
  # shellcheck disable=SC2086
  "$RUNNER" --onnx="$1" $fp16 --iterations="$MINIMUM_RUNS" --duration=0 --warmUp=5 --percentile=90,95,99 \
    --noDataTransfers --useSpinWait
}
