"""Time ONNX models with onnxruntime and numpy alone: `time_onnx.py (LOG MODEL SHAPES)...`, or `one MODEL RAW`.

Settings come from run.sh through the environment. Every log is written beside its place and moved there whole.
"""

import os
import sys
import time

import numpy as np
import onnxruntime as ort

DTYPES = {"float": "f4", "double": "f8", "float16": "f2", "int64": "i8", "int32": "i4", "uint8": "u1", "bool": "?"}


def times_us(path: str) -> "np.ndarray":
    """Warmed up, then as many runs as fit the time, all inputs and outputs in place."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(os.environ["THREADS"]), 1
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    random, feeds, binding = np.random.default_rng(0), {}, session.io_binding()
    for item in session.get_inputs():
        dtype = np.dtype(DTYPES[item.type[7:-1]])
        numbers = random.standard_normal(item.shape) if dtype.kind == "f" else np.full(item.shape, dtype.kind == "b")
        feeds[item.name] = numbers.astype(dtype)
        binding.bind_input(item.name, "cpu", 0, dtype, feeds[item.name].shape, feeds[item.name].ctypes.data)
    outputs = dict(zip([item.name for item in session.get_outputs()], session.run(None, feeds)))  # noqa: B905 (Python 3.8 has no strict)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(count: int) -> "np.ndarray":
        marks = [time.perf_counter_ns()]
        for _ in range(count):
            session.run_with_iobinding(binding)
            marks.append(time.perf_counter_ns())
        return np.diff(np.array(marks)) / 1e3

    warmup, least, most = (int(os.environ[name]) for name in ("WARMUP_RUNS", "MINIMUM_RUNS", "MAXIMUM_RUNS"))
    spent = warm = run(warmup)
    while spent.sum() < float(os.environ["WARMUP_US"]):
        spent = np.append(spent, run(warmup))
    wanted = float(os.environ["TARGET_US"]) / max(float(np.median(warm)), 0.1)
    return run(int(max(least, min(most, wanted))))


def lines_of(path: str) -> str:
    """The times, one a line, in microseconds."""
    return "".join(f"{value:.3f}\n" for value in times_us(path))


def main(arguments: "list[str]") -> None:
    """Time what the arguments name; see the module."""
    if arguments[0] == "one":
        with open(arguments[2], "w") as file:
            file.write(lines_of(arguments[1]))
        return
    parent = os.getppid()
    for log, model in zip(arguments[::3], arguments[1::3]):  # noqa: B905
        if os.getppid() != parent:  # run.sh is gone: leave the rest to the next one
            return
        head = "#kit {KIT}\n#log {log}\n#tool {TOOL} {VERSION}\n#unit us\n".format(log=log, **os.environ)
        try:
            text, status, ending = lines_of(model), 0, "log"
        except Exception as error:
            text, status, ending = f"{error}\n", 1, "failed"
        mine = f"logs/{log}.{os.getpid()}.tmp"
        with open(mine, "w") as file:
            file.write(f"{head}{text}#end {status}\n")
        os.replace(mine, f"logs/{log}.{ending}")


if __name__ == "__main__":
    main(sys.argv[1:])
