"""What a small board says of itself: which one it is, its power mode, clocks, rails, temperatures and throttling.

Read from the device tree and sysfs, so that no tool need be installed and no root rights are needed. Names of rails,
zones and modes are those of NVIDIA's Jetson Linux Developer Guide, "Platform Power and Performance" of the Orin and of
the Thor family. Files that are missing or cannot be read leave their field empty; nothing here raises.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

_MODULES = {  # the part number of the module in the device tree's `compatible`
    "p3767-0000": "Orin NX 16GB",
    "p3767-0001": "Orin NX 8GB",
    "p3767-0003": "Orin Nano 8GB",
    "p3767-0004": "Orin Nano 4GB",
    "p3767-0005": "Orin Nano 8GB (developer kit)",
    "p3701-0000": "AGX Orin (developer kit)",
    "p3701-0004": "AGX Orin 32GB",
    "p3701-0005": "AGX Orin 64GB",
    "p3701-0008": "AGX Orin Industrial",
    "p3834-0000": "Thor T4000",
    "p3834-0008": "Thor T5000",
}
_JETPACKS = {  # by Jetson Linux release
    "35.4.1": "5.1.2", "35.5.0": "5.1.3", "35.6.0": "5.1.4", "36.3.0": "6.0", "36.4.0": "6.1", "36.4.3": "6.2",
    "36.4.4": "6.2.1", "38.2.0": "7.0", "38.2.1": "7.0",
}  # fmt: skip
# What a whole module draws: the first of these sets whose rails are all there is summed up. Rails that are missing here
# are parts of those (VDD_CPU_GPU_CV and VDD_SOC of VDD_IN, VDDQ_VDD2_1V8AO of VIN_SYS_5V0).
_TOTALS = (
    ("VIN",),  # Thor: the input of module and carrier board
    ("VDD_IN",),  # Orin Nano and Orin NX
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor without its input's sensor
)
_COOLERS = ("fan",)  # cooling devices that slow nothing down
_CAPPED = 0.99  # a clock's limit below this share of the highest one is a cap


@dataclass(frozen=True)
class Clock:
    """Hertz: now, the limit that is set, and the highest that there is."""

    name: str
    now_hz: int
    limit_hz: int
    highest_hz: int


@dataclass(frozen=True)
class Device:
    """One reading of a board. `rails_w` are watts, `temperatures_c` degrees Celsius by thermal zone.

    `throttling` are the cooling devices that slow something down now, `overcurrent_events` counts since the start of
    the system.
    """

    name: str
    module: str | None = None
    soc: str | None = None
    jetson_linux: str | None = None
    jetpack: str | None = None
    packages: Mapping[str, str] | None = None  # cuda and tensorrt, by the package manager
    power_mode: str | None = None
    clocks: tuple[Clock, ...] = ()
    rails_w: Mapping[str, float] | None = None
    temperatures_c: Mapping[str, float] | None = None
    throttling: tuple[str, ...] = ()
    overcurrent_events: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def read_device(root: Path = Path("/")) -> Device | None:
    """The board whose files lie below `root`; None for a computer without a device tree."""
    name = _text(root / "proc/device-tree/model")
    if not name:
        return None
    compatible = _text(root / "proc/device-tree/compatible")
    release = _jetson_linux(root)
    packages = _packages(root)
    return Device(
        name=name,
        module=next((module for part, module in _MODULES.items() if part in compatible), None),
        soc=next(iter(re.findall(r"nvidia,(tegra\d+)", compatible)), None),
        jetson_linux=release,
        jetpack=_version(packages.pop("nvidia-jetpack", None)) or _JETPACKS.get(release or ""),
        packages=packages,
        power_mode=_power_mode(root),
        clocks=tuple(_clocks(root)),
        rails_w=read_rails(root),
        temperatures_c=dict(_temperatures(root)),
        throttling=tuple(_throttling(root)),
        overcurrent_events=sum(
            _number(path) or 0 for path in sorted((root / "sys/class/hwmon").glob("*/oc*_event_cnt"))
        ),
    )


def throttled(before: Device, after: Device) -> tuple[str, ...]:
    """What slowed the board down between two readings, a sentence each."""
    found = [f"{name} was active" for name in dict.fromkeys((*before.throttling, *after.throttling))]
    events = after.overcurrent_events - before.overcurrent_events
    if events > 0:
        found.append(f"{events} over-current event{'s' if events > 1 else ''}")
    limits = {clock.name: clock.limit_hz for clock in before.clocks}
    found += [
        f"the limit of {clock.name} fell to {clock.limit_hz / 1e9:.2f} GHz"
        for clock in after.clocks
        if clock.limit_hz < _CAPPED * limits.get(clock.name, 0)
    ]
    return tuple(found)


def read_rails(root: Path = Path("/")) -> dict[str, float]:
    """Watts by rail, of every INA3221 (three channels of volts and amperes) and INA238 (one of watts)."""
    rails: dict[str, float] = {}
    for chip in sorted((root / "sys/class/hwmon").glob("*")):
        name = _text(chip / "name")
        if name == "ina3221":
            for label in sorted(chip.glob("in*_label")):
                channel, rail = label.name[2:-6], _text(label)
                millivolts, milliamperes = _number(chip / f"in{channel}_input"), _number(chip / f"curr{channel}_input")
                if rail and rail != "NC" and millivolts is not None and milliamperes is not None:
                    rails[rail] = millivolts * milliamperes / 1e6
        elif name in ("ina238", "ina237"):
            microwatts = _number(chip / "power1_input")
            if microwatts is not None:
                rails[_text(chip / "power1_label") or "VIN"] = microwatts / 1e6
    return rails


def total_watts(rails: Mapping[str, float]) -> tuple[float, str] | None:
    """What the whole module draws, and the rails that are summed for it; None where the rails do not tell."""
    for names in _TOTALS:
        if all(name in rails for name in names):
            return sum(rails[name] for name in names), " + ".join(names)
    return None


class PowerMeter:
    """Samples the power of the whole device in the background: `with PowerMeter() as meter: ...; meter.mean_watts()`.

    On a Jetson from its rails, on an x86 computer from the processor's energy counter (which only root may read on
    most systems). `source` says what the watts are of; it is empty where the device does not tell.
    """

    def __init__(self, root: Path = Path("/"), interval_s: float = 0.02) -> None:
        self._root, self._interval = root, interval_s
        self._stop = threading.Event()
        self._samples: list[float] = []
        self._thread: threading.Thread | None = None
        self._counter = root / "sys/class/powercap/intel-rapl:0"
        self._joules, self._seconds = 0.0, 0.0
        found = total_watts(read_rails(root))
        counted = _number(self._counter / "energy_uj")
        self.source = found[1] if found else (_text(self._counter / "name") or "RAPL") if counted is not None else ""
        self._by_counter = found is None and counted is not None

    def __enter__(self) -> PowerMeter:
        if self.source:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def mean_watts(self) -> float | None:
        """The mean power since the start; None where the device does not tell."""
        if self._by_counter:
            return self._joules / self._seconds if self._seconds else None
        return sum(self._samples) / len(self._samples) if self._samples else None

    def _run(self) -> None:
        start, last = time.monotonic(), _number(self._counter / "energy_uj")
        while True:
            stopping = self._stop.wait(self._interval)
            if self._by_counter:
                now = _number(self._counter / "energy_uj")
                if now is not None and last is not None:
                    self.count(last, now, time.monotonic() - start)
                last = now
                start = time.monotonic()
            elif (found := total_watts(read_rails(self._root))) is not None:
                self._samples.append(found[0])
            if stopping:
                return

    def count(self, before_uj: int, after_uj: int, seconds: float) -> None:
        """Add the energy between two readings of the counter, which starts again at zero when it is full."""
        if after_uj < before_uj:
            after_uj += _number(self._counter / "max_energy_range_uj") or 0
        self._joules += max(0, after_uj - before_uj) / 1e6
        self._seconds += seconds


def read_gpus() -> list[dict[str, Any]]:
    """Name, driver, clocks, power limit and throttling of every NVIDIA GPU, where nvidia-ml-py is installed."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # not installed, or no driver: there are none to tell of
        return []
    try:
        driver = _decoded(nvml.nvmlSystemGetDriverVersion())
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return [_gpu(nvml, handle, driver) for handle in handles]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, handle: Any, driver: str) -> dict[str, Any]:
    readings: dict[str, Callable[[], Any]] = {
        "memory_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total,
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "sm_mhz_highest": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        "power_limit_w": lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3,
        "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "throttle_reasons": lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
    }
    found: dict[str, Any] = {"name": _decoded(nvml.nvmlDeviceGetName(handle)), "driver": driver}
    for name, read in readings.items():
        try:
            found[name] = read()
        except nvml.NVMLError:  # not every GPU tells everything
            found[name] = None
    return found


def _decoded(text: str | bytes) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _jetson_linux(root: Path) -> str | None:
    """The release, from a line such as "# R36 (release), REVISION: 4.3, GCID: ...": 36.4.3."""
    found = re.search(r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", _text(root / "etc/nv_tegra_release"))
    return f"{found[1]}.{found[2]}" if found else None


def _packages(root: Path) -> dict[str, str]:
    """Versions of the packages that matter to an engine, by Debian's package database."""
    wanted = {"nvidia-jetpack": "nvidia-jetpack", "libnvinfer10": "tensorrt", "libnvinfer8": "tensorrt"}
    found: dict[str, str] = {}
    for entry in _text(root / "var/lib/dpkg/status", 64 << 20).split("\n\n"):
        package = re.search(r"^Package: (\S+)$", entry, re.MULTILINE)
        version = re.search(r"^Version: (\S+)$", entry, re.MULTILINE)
        if package is None or version is None:
            continue
        cuda = re.fullmatch(r"cuda-cudart-(\d+)-(\d+)", package[1])
        if package[1] in wanted:
            found[wanted[package[1]]] = version[1]
        elif cuda:
            found["cuda"] = f"{cuda[1]}.{cuda[2]}"
    return found


def _version(text: str | None) -> str | None:
    """A package's version without the distribution's additions: 6.2+b77 is 6.2."""
    return re.split(r"[+-]", text)[0] if text else None


def _power_mode(root: Path) -> str | None:
    """The name of nvpmodel's mode where its table has one, else its number."""
    chosen = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if chosen is None:
        return None
    modes = dict(re.findall(r"< POWER_MODEL ID=(\d+) NAME=(\S+) >", _text(root / "etc/nvpmodel.conf")))
    number = str(int(chosen[1]))
    return f"{modes[number]} (mode {number})" if number in modes else f"mode {number}"


def _clocks(root: Path) -> Iterable[Clock]:
    for policy in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*")):
        values = [_number(policy / name) for name in ("scaling_cur_freq", "scaling_max_freq", "cpuinfo_max_freq")]
        if (read := [value for value in values if value is not None]) and len(read) == len(values):
            yield Clock(f"cpu {policy.name}", *(1000 * value for value in read))  # kilohertz
    for gpu in sorted((root / "sys/class/devfreq").glob("*")):
        if not re.search(r"gpu|ga10b|gb10b", gpu.name):
            continue
        now, limit = _number(gpu / "cur_freq"), _number(gpu / "max_freq")
        steps = [int(step) for step in _text(gpu / "available_frequencies").split() if step.isdigit()]
        if now is not None and limit is not None:
            yield Clock("gpu", now, limit, max(steps, default=limit))


def _temperatures(root: Path) -> Iterable[tuple[str, float]]:
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        degrees = _number(zone / "temp")  # zones of what is switched off cannot be read
        if degrees is not None:
            yield _text(zone / "type") or zone.name, degrees / 1000


def _throttling(root: Path) -> Iterable[str]:
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind = _text(device / "type")
        if (_number(device / "cur_state") or 0) > 0 and not any(cooler in kind for cooler in _COOLERS):
            yield kind or device.name


def _text(path: Path, most: int = 1 << 20) -> str:
    """What a file says, without the zero bytes that end a device tree's strings; "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(most).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None
