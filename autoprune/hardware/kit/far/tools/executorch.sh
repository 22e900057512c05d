# shellcheck shell=sh disable=SC2034
# ExecuTorch's executor_runner. Flags and log lines as of ExecuTorch 1.5.
TOOL_SUFFIX=pte
TOOL_UNIT=ms
TOOL_BATCH=1
RUNNER=$(find_tool executor_runner)
TOOL_NEEDS="expected the program executor_runner in this folder, the one above or on the path, got none. Build it from ExecuTorch's examples/portable/executor_runner with the XNNPACK backend."

# It tells no version; what it is shows in its checksum.
tool_version() { [ -n "$RUNNER" ] && echo "cksum-$(cksum <"$RUNNER" | cut -d ' ' -f 1)"; }

tool_run() {
  "$RUNNER" --model_path="$1" --num_executions="$((WARMUP_RUNS + MINIMUM_RUNS))" --cpu_threads="$THREADS"
}
