"""Boards that cannot be had here, read from the files that they show."""

import json
import time

import pytest
from jetson_trees import BOARDS, write, write_board, write_rails

from pstmo_edge.benchmarks import devices
from pstmo_edge.benchmarks.devices import PowerMeter, read_device, read_rails, throttled, total_watts

WANTED = {
    "orin-nano": ("Orin Nano 8GB (developer kit)", "tegra234", "36.4.3", "6.2", "MAXN_SUPER (mode 2)"),
    "orin-nx": ("Orin NX 16GB", "tegra234", "36.3.0", "6.0", "25W (mode 3)"),
    "agx-orin": ("AGX Orin 64GB", "tegra234", "35.4.1", "5.1.2", "MAXN (mode 0)"),
    "thor": ("Thor T5000", "tegra264", "38.2.0", "7.0", "120W (mode 1)"),
}
WATTS = {
    "orin-nano": (6.21, "VDD_IN"),
    "orin-nx": (6.21, "VDD_IN"),
    "agx-orin": (6.0 + 3.0 + 4.0, "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"),
    "thor": (23.4, "VIN"),
}


@pytest.mark.parametrize("name", list(BOARDS))
def test_a_board_is_read_right(name, tmp_path):
    write_board(tmp_path, name)
    found = read_device(tmp_path)
    assert found.name == BOARDS[name]["model"]
    assert (found.module, found.soc, found.jetson_linux, found.jetpack, found.power_mode) == WANTED[name]
    assert found.packages == {"tensorrt": "10.3.0.30-1+cuda12.5", "cuda": "12.6"}
    assert found.temperatures_c == {"cpu-thermal": 51.25, "gpu-thermal": 49.5, "tj-thermal": 51.25}
    cpu, gpu = found.clocks
    assert (cpu.now_hz, cpu.limit_hz, cpu.highest_hz) == (729_600_000, 1_728_000_000, 1_728_000_000)
    assert (gpu.name, gpu.now_hz, gpu.highest_hz) == ("gpu", 612_000_000, 1_020_000_000)
    watts, source = total_watts(found.rails_w)
    assert (watts, source) == (pytest.approx(WATTS[name][0], abs=0.01), WATTS[name][1])
    assert "NC" not in found.rails_w
    assert found.throttling == (), "a running fan slows nothing down"
    assert json.loads(json.dumps(found.to_dict()))["module"] == found.module


@pytest.mark.parametrize("name", list(BOARDS))
def test_throttling_is_noticed(name, tmp_path):
    write_board(tmp_path, name)
    before = read_device(tmp_path)
    assert throttled(before, read_device(tmp_path)) == ()
    write_board(tmp_path / "hot", name, throttled=True)
    assert throttled(before, read_device(tmp_path / "hot")) == (
        "cpu-throttle-alert was active",
        "2 over-current events",
        "the limit of cpu policy0 fell to 1.19 GHz",
    )


def test_the_package_of_jetpack_goes_before_the_table(tmp_path):
    write_board(tmp_path, "orin-nano")
    write(tmp_path / "var/lib/dpkg/status", "Package: nvidia-jetpack\nVersion: 6.3+b12")
    assert read_device(tmp_path).jetpack == "6.3"


def test_other_computers(tmp_path):
    assert read_device(tmp_path) is None
    write(tmp_path / "proc/device-tree/model", b"Raspberry Pi 5 Model B Rev 1.0\0")
    found = read_device(tmp_path)
    assert (found.name, found.module, found.power_mode) == ("Raspberry Pi 5 Model B Rev 1.0", None, None)
    assert total_watts(found.rails_w) is None


def test_garbage_leaves_fields_empty(tmp_path):
    write_board(tmp_path, "orin-nano")
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "model":
            path.write_bytes(b"\xff\x00garbage \n" * 3)
    found = read_device(tmp_path)
    assert found.name == BOARDS["orin-nano"]["model"]
    assert (found.module, found.jetpack, found.power_mode, found.clocks) == (None, None, None, ())
    assert (found.rails_w, found.temperatures_c, found.throttling) == ({}, {}, ())


def test_the_meter_averages_what_changes(tmp_path):
    write_rails(tmp_path, [("VDD_IN", 5000, 1000)])
    with PowerMeter(tmp_path, interval_s=0.002) as meter:
        deadline = time.monotonic() + 5
        while len(meter._samples) < 20 and time.monotonic() < deadline:
            time.sleep(0.005)
        low = len(meter._samples)
        write(tmp_path / "sys/class/hwmon/hwmon1/curr1_input", 3000)
        while len(meter._samples) < 2 * low and time.monotonic() < deadline:
            time.sleep(0.005)
    assert meter.source == "VDD_IN"
    assert 5.5 < meter.mean_watts() < 14.5
    assert {round(sample, 3) for sample in meter._samples} <= {5.0, 15.0}


def test_the_energy_counter_may_start_again(tmp_path):
    counter = tmp_path / "sys/class/powercap/intel-rapl:0"
    for name, value in {"name": "package-0", "energy_uj": 900, "max_energy_range_uj": 1_000_000_000}.items():
        write(counter / name, value)
    meter = PowerMeter(tmp_path)
    assert meter.source == "package-0"
    assert meter.mean_watts() is None
    meter.count(999_000_000, 2_000_000, 0.5)  # 3 J in half a second
    assert meter.mean_watts() == pytest.approx(6.0)


def test_a_device_that_does_not_tell_has_no_power(tmp_path):
    with PowerMeter(tmp_path) as meter:
        pass
    assert (meter.source, meter.mean_watts(), read_rails(tmp_path)) == ("", None, {})


def test_without_the_nvidia_library_there_are_no_gpus(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert devices.read_gpus() == []
