"""Make the analytical profiles that ship: coefficients fitted to published measurements, or scaled from those.

    python benchmarks/ship_analytical_profiles.py --data ../shared/data/latency [--output hardware_profiles]

Nothing of the measurements is copied but fitted coefficients and their errors. `kernels.csv` holds what the model says
of the kernels of ResNet-50, MobileNetV2 and ViT-B/16, for reading.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere, installed or not

from autoprune.hardware.analytical import AnalyticalModel
from autoprune.hardware.latency import UNFITTED
from autoprune.hardware.profile import (
    PERCENTILES,
    Composition,
    DeviceInfo,
    HardwareProfile,
    ProfileHeader,
    ProtocolInfo,
    Residuals,
    RuntimeInfo,
    Validation,
)
from benchmarks.ship_fits import Fit, cpu_fit, data_centre_fits, gpu_phone_fit, scaled_gpu, scaled_pi
from benchmarks.ship_kernels import reference_rows

CREATED = "2026-11-22"
DATA_CENTRE_BATCH = 32


@dataclass(frozen=True)
class Device:
    """What is shipped for one device, and where its specification stands.

    Attributes:
        name: of the profile.
        info: the device.
        runtime: that its figures are of.
        specification: figures, and the document they are from.
        precision, batch, quantum, layout: how it runs.
        flags: of the runtime.
    """

    name: str
    info: DeviceInfo
    runtime: RuntimeInfo
    specification: str
    precision: str = "float32"
    batch: int = 1
    quantum: int = 8
    layout: str = "NCHW"
    flags: Mapping[str, str] = field(default_factory=dict)


TORCH = RuntimeInfo(name="pytorch", version="2.1", flags={"cuda": "12.1", "tf32": "off"})
LITERT_GPU = RuntimeInfo(name="tflite", version="unknown", flags={"delegate": "gpu", "fp16": "allowed"})
LITERT_CPU = RuntimeInfo(name="tflite", version="unknown", flags={"delegate": "none"})


def _gpu(name: str, title: str, memory_gb: int, cores: int, specification: str) -> Device:
    info = DeviceInfo(name=title, kind="gpu", processor=title, cores=cores, memory_bytes=memory_gb * 10**9)
    return Device(name, info, TORCH, specification, batch=DATA_CENTRE_BATCH, quantum=32)


def _phone_gpu(name: str, title: str, processor: str, specification: str) -> Device:
    info = DeviceInfo(name=title, kind="mobile", processor=processor)
    return Device(name, info, LITERT_GPU, specification, precision="float16", quantum=4, layout="NHWC")


V100 = _gpu(
    "gpu-v100-pytorch",
    "NVIDIA Tesla V100-PCIE-32GB",
    32,
    80,
    "14.0 TFLOPS fp32, 900 GB/s, 80 SMs: NVIDIA V100 Tensor Core GPU data sheet (2020)",
)
T4 = _gpu(
    "gpu-t4-pytorch",
    "NVIDIA T4",
    16,
    40,
    "8.1 TFLOPS fp32, 320 GB/s, 40 SMs: NVIDIA T4 Tensor Core GPU data sheet (2019)",
)
A100 = _gpu(
    "gpu-a100-pytorch",
    "NVIDIA A100-PCIE-40GB",
    40,
    108,
    "19.5 TFLOPS fp32, 1555 GB/s, 108 SMs: NVIDIA A100 Tensor Core GPU data sheet (2020)",
)
H100 = _gpu(
    "gpu-h100-pytorch",
    "NVIDIA H100 PCIe",
    80,
    114,
    "51 TFLOPS fp32, 2000 GB/s: NVIDIA H100 Tensor Core GPU data sheet (2022); 114 SMs: H100 architecture white paper",
)
L4 = _gpu(
    "gpu-l4-pytorch",
    "NVIDIA L4",
    24,
    58,
    "30.3 TFLOPS fp32, 300 GB/s: NVIDIA L4 Tensor Core GPU data sheet (2023); 58 SMs: what that takes at 2.04 GHz",
)
ORIN = Device(
    "gpu-jetson-orin-nano-pytorch",
    DeviceInfo(name="NVIDIA Jetson Orin Nano 8GB", kind="gpu", processor="Ampere, 1024 cores", cores=8),
    TORCH,
    "1024 CUDA cores in 8 SMs at 625 MHz (1.28 TFLOPS fp32), 68 GB/s: NVIDIA Jetson Orin Nano series data sheet (2023)",
    quantum=32,
)
PIXEL_GPU = _phone_gpu("mobile-pixel4-gpu-tflite", "Pixel 4", "Adreno 640", "Qualcomm Snapdragon 855 product brief")
S10_GPU = _phone_gpu("mobile-galaxy-s10-gpu-tflite", "Galaxy S10", "Mali-G76 MP12", "Samsung Exynos 9820 product page")
IPHONE_GPU = _phone_gpu("mobile-iphone7-gpu-tflite", "iPhone 7", "A10 Fusion", "Apple iPhone 7 specifications")
PIXEL_CPU = Device(
    "mobile-pixel4-cpu-tflite-1t",
    DeviceInfo(name="Pixel 4", kind="mobile", processor="Kryo 485 Prime (Cortex-A76), 2.84 GHz", cores=8),
    LITERT_CPU,
    "one Kryo 485 core at 2.84 GHz: Qualcomm Snapdragon 855 product brief",
    layout="NHWC",
)
PI = Device(
    "cpu-raspberry-pi-5-tflite-1t",
    DeviceInfo(name="Raspberry Pi 5", kind="cpu", processor="BCM2712 (Cortex-A76), 2.4 GHz", cores=4),
    LITERT_CPU,
    "4 Cortex-A76 at 2.4 GHz, 32-bit LPDDR4X-4267 (17.1 GB/s): Raspberry Pi 5 product brief (2023)",
    layout="NHWC",
)
MEASURED_GPUS = {"Tesla V100-PCIE-32GB": V100, "Tesla T4": T4, "NVIDIA A100-PCIE-40GB": A100}


def profile_of(device: Device, fit: Fit) -> HardwareProfile:
    """The profile of a device from its fit."""
    composition = fit.composition or {
        percentile: Composition(sum_factor=1.0, constant_us=0.0, kernel_us=0.0) for percentile in PERCENTILES
    }
    low, high = (float(edge) for edge in np.quantile(fit.errors, [0.05, 0.95]))
    mean = float(np.abs(fit.errors).mean())
    if fit.models == 0:  # no whole model says what sums of kernels leave out
        low, high = (1 + low) * (1 + UNFITTED[0]) - 1, (1 + high) * (1 + UNFITTED[1]) - 1
    residuals = {name: Residuals(mean_absolute=mean, low=low, high=high) for name in PERCENTILES}
    header = ProfileHeader(
        name=device.name,
        description=f"Analytical, not measured by autoprune: {fit.story}",
        device=device.info,
        runtime=device.runtime,
        precision=device.precision,
        batch=device.batch,
        threads=1,
        layout=device.layout,
        environment={"specification": device.specification, "source": fit.source},
        protocol=ProtocolInfo(sessions=0, minimum_runs=0, warmup_runs=0, warmup_us=0.0),
        provenance="analytical",
        composition=composition,
        analytical=fit.model,
        alignment_quantum=device.quantum,
        validation=Validation(models=fit.models, residuals=residuals, notes=fit.notes),
        created=CREATED,
    )
    return HardwareProfile(header, reference_rows(rounded(fit.model), device.batch))


def rounded(model: AnalyticalModel) -> AnalyticalModel:
    """As the profile's file keeps it."""
    return AnalyticalModel.model_validate_json(model.model_dump_json())


def all_profiles(data: Path) -> list[HardwareProfile]:
    """Every analytical profile."""
    gpus = data_centre_fits(data)
    found = [profile_of(device, gpus[name]) for name, device in MEASURED_GPUS.items()]
    base = gpus["NVIDIA A100-PCIE-40GB"]
    found.append(profile_of(H100, scaled_gpu(base, gpus, "A100", 51 / 19.5, 2000 / 1555, 114)))
    found.append(profile_of(L4, scaled_gpu(base, gpus, "A100", 30.3 / 19.5, 300 / 1555, 58)))
    found.append(profile_of(ORIN, scaled_gpu(base, gpus, "A100", 1.28 / 19.5, 68 / 1555, 8)))
    for phone, device in (("pixel4", PIXEL_GPU), ("s10", S10_GPU), ("iphone7", IPHONE_GPU)):
        found.append(profile_of(device, gpu_phone_fit(data, phone)))
    found.append(profile_of(PIXEL_CPU, cpu_fit(data, "1large")))
    found.append(profile_of(PI, scaled_pi(data)))
    return found


def main() -> int:
    """Run it; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the published measurements")
    parser.add_argument("--output", type=Path, default=Path("hardware_profiles"))
    options = parser.parse_args()
    for profile in all_profiles(options.data):
        profile.save(options.output / profile.name)
        residual = profile.header.validation.residuals["p50"]
        error = f"{residual.mean_absolute:.1%} ({residual.low:+.1%} .. {residual.high:+.1%})"
        print(f"{profile.name:34} {error:30} {profile.header.description[36:130]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
