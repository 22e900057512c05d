# shellcheck shell=sh disable=SC2034
# ncnn's benchncnn. It reads .param files (weights are made up): `sh run.sh convert`
# makes them of the ONNX files with pnnx. It reports hundredths of a millisecond, too coarse for small kernels.
TOOL_SUFFIX=ncnn.param
TOOL_UNIT=ms
TOOL_BATCH=1
RUNNER=$(find_tool benchncnn)
TOOL_NEEDS="expected the program benchncnn in this folder, the one above or on the path, got none. Build ncnn with its benchmark."

tool_version() { [ -n "$RUNNER" ] && echo "cksum-$(cksum <"$RUNNER" | cut -d ' ' -f 1)"; }

tool_convert() { pnnx "$1"; }

# 1,3,224,224 -> [224,224,3]: ncnn has no batch, and counts from the innermost.
ncnn_shapes() {
  echo "$1" | awk -F ';' '{
    for (i = 1; i <= NF; i++) {
      n = split($i, size, ",")
      printf "%s[", (i > 1 ? "," : "")
      for (j = n; j > 1; j--) printf "%s%s", size[j], (j > 2 ? "," : "]")
    }
  }'
}

tool_run() { "$RUNNER" "$MINIMUM_RUNS" "$THREADS" 2 -1 0 param="$1" shape="$(ncnn_shapes "$2")"; }
