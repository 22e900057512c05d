# shellcheck shell=sh disable=SC2034
# LiteRT's (TensorFlow Lite's) benchmark_model. It reads .tflite files: `sh run.sh
# convert` makes them of the ONNX files with onnx2tf, on a machine that has it.
TOOL_SUFFIX=tflite
TOOL_UNIT=us
TOOL_BATCH=1
RUNNER=$(find_tool benchmark_model)
TOOL_NEEDS="expected the program benchmark_model in this folder, the one above or on the path, got none. It is among LiteRT's prebuilt tools."

tool_version() { [ -n "$RUNNER" ] && echo "cksum-$(cksum <"$RUNNER" | cut -d ' ' -f 1)"; }

tool_convert() {
  onnx2tf -i "$1" -o converted && mv converted/*_float32.tflite "${1%.onnx}.tflite" && rm -rf converted
}

tool_run() {
  "$RUNNER" --graph="$1" --num_threads="$THREADS" --warmup_runs="$WARMUP_RUNS" --warmup_min_secs=0.005 \
    --num_runs="$MINIMUM_RUNS" --min_secs=0.02
}
