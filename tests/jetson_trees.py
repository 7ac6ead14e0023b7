"""Writes the files that Jetson boards show of themselves, as NVIDIA's developer guide describes them."""

_INA3221 = {
    "orin-nano": [("VDD_IN", 5008, 1240), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 300)],
    "agx-orin": [("VDD_GPU_SOC", 20000, 300), ("VDD_CPU_CV", 20000, 150), ("VIN_SYS_5V0", 5000, 800)],
    "thor": [("VDD_GPU", 12000, 500), ("VDD_CPU_SOC_MSS", 12000, 550), ("VIN_SYS_5V0", 5000, 1300)],
}
_INA3221["orin-nx"] = _INA3221["orin-nano"]
BOARDS = {
    "orin-nano": {
        "model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "compatible": ["nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"],
        "release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
        "modes": {0: "15W", 1: "25W", 2: "MAXN_SUPER"},
        "mode": 2,
        "gpu": "17000000.gpu",
    },
    "orin-nx": {
        "model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        "compatible": ["nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"],
        "release": "# R36 (release), REVISION: 3.0, GCID: 36106755, BOARD: generic, EABI: aarch64",
        "modes": {0: "MAXN", 1: "10W", 2: "15W", 3: "25W"},
        "mode": 3,
        "gpu": "17000000.gpu",
    },
    "agx-orin": {
        "model": "NVIDIA Jetson AGX Orin Developer Kit",
        "compatible": ["nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"],
        "release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64",
        "modes": {0: "MAXN", 1: "MODE_15W", 2: "MODE_30W", 3: "MODE_50W"},
        "mode": 0,
        "gpu": "17000000.ga10b",
    },
    "thor": {
        "model": "NVIDIA Jetson AGX Thor Developer Kit",
        "compatible": ["nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"],
        "release": "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64",
        "modes": {0: "MAXN", 1: "120W"},
        "mode": 1,
        "gpu": "gpu-gpc-0",
    },
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())


def write_board(root, name, throttled=False):
    """The files of one board below `root`."""
    board = BOARDS[name]
    write(root / "proc/device-tree/model", board["model"].encode() + b"\0")
    write(root / "proc/device-tree/compatible", b"".join(text.encode() + b"\0" for text in board["compatible"]))
    write(root / "etc/nv_tegra_release", board["release"])
    write(root / "var/lib/nvpmodel/status", f"pmode:{board['mode']:04d} fmode:quiet")
    write(
        root / "etc/nvpmodel.conf",
        "\n".join(f"< POWER_MODEL ID={number} NAME={mode} >" for number, mode in board["modes"].items()),
    )
    write_cpu(root, limit=1_190_400 if throttled else 1_728_000)
    gpu = root / "sys/class/devfreq" / board["gpu"]
    write(gpu / "cur_freq", 612_000_000)
    write(gpu / "max_freq", 1_020_000_000)
    write(gpu / "available_frequencies", "306000000 612000000 1020000000")
    write(root / "sys/class/devfreq/13e10000.host1x/cur_freq", 1)
    write_rails(root, _INA3221[name])
    if name == "thor":
        write(root / "sys/class/hwmon/hwmon7/name", "ina238")
        write(root / "sys/class/hwmon/hwmon7/power1_input", 23_400_000)
    if name == "agx-orin":
        write(root / "sys/class/hwmon/hwmon4/name", "ina3221")
        for channel, (label, volts, amperes) in enumerate([("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 200)], 1):
            write(root / f"sys/class/hwmon/hwmon4/in{channel}_label", label)
            write(root / f"sys/class/hwmon/hwmon4/in{channel}_input", volts)
            write(root / f"sys/class/hwmon/hwmon4/curr{channel}_input", amperes)
    thermal = root / "sys/class/thermal"
    for number, (zone, degrees) in enumerate({"cpu-thermal": 51250, "gpu-thermal": 49500, "tj-thermal": 51250}.items()):
        write(thermal / f"thermal_zone{number}/type", zone)
        write(thermal / f"thermal_zone{number}/temp", degrees)
    write(thermal / "thermal_zone3/type", "cv0-thermal")
    (thermal / "thermal_zone3/temp").mkdir(exist_ok=True)  # reading it fails, as that of a domain that is switched off
    for number, (kind, state) in enumerate(
        {"pwm-fan": 3, "cpu-throttle-alert": int(throttled), "gpu-throttle-alert": 0}.items()
    ):
        write(thermal / f"cooling_device{number}/type", kind)
        write(thermal / f"cooling_device{number}/cur_state", state)
    write(root / "sys/class/hwmon/hwmon2/oc1_event_cnt", 2 if throttled else 0)
    write(
        root / "var/lib/dpkg/status",
        "Package: libnvinfer10\nStatus: install ok installed\nVersion: 10.3.0.30-1+cuda12.5\n\n"
        "Package: cuda-cudart-12-6\nVersion: 12.6.68-1\n\nPackage: broken",
    )


def write_cpu(root, limit):
    policy = root / "sys/devices/system/cpu/cpufreq/policy0"
    for file, value in {"scaling_cur_freq": 729600, "scaling_max_freq": limit, "cpuinfo_max_freq": 1728000}.items():
        write(policy / file, value)


def write_rails(root, rails):
    chip = root / "sys/class/hwmon/hwmon1"
    write(chip / "name", "ina3221")
    for channel, (label, millivolts, milliamperes) in enumerate(rails, 1):
        write(chip / f"in{channel}_label", label)
        write(chip / f"in{channel}_input", millivolts)
        write(chip / f"curr{channel}_input", milliamperes)
    write(chip / "in7_label", "Sum of shunt voltages")
