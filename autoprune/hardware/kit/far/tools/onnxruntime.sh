# shellcheck shell=sh disable=SC2034
# ONNX Runtime on the CPU, by a script that needs onnxruntime and numpy alone.
TOOL_SUFFIX=onnx
TOOL_UNIT=us
TOOL_BATCH=16
TOOL_NEEDS="expected '$PYTHON' with the packages onnxruntime and numpy, got none. Install them, or give another one: PYTHON=/path/to/python sh run.sh"

tool_version() { "$PYTHON" -c 'import numpy, onnxruntime; print(onnxruntime.__version__)'; }

tool_run() {
  "$PYTHON" time_onnx.py one "$1" "$3" && cat "$3"
  status=$?
  rm -f "$3"
  return "$status"
}

tool_run_several() { "$PYTHON" time_onnx.py "$@"; }
