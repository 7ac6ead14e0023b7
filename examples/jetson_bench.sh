#!/bin/sh
# The whole benchmark on a Jetson, one JSON to send back: sh jetson_bench.sh ENGINE [OUT.json]
# ENGINE is a bundle of `pstmo-edge build --backend tensorrt`; it is compiled here if it was not yet.
set -eu
engine=${1:?"give the bundle"}
board=$(cat /proc/device-tree/model 2>/dev/null | tr -d '\0' | tr -cs 'A-Za-z0-9' -)
out=${2:-jetson-${board:-unknown}.json}
command -v pstmo-edge > /dev/null || { echo "pstmo-edge is not on the PATH: activate its environment" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pstmo-edge doctor --json > "$work/doctor.json"
[ -e "$engine/model.plan" ] || pstmo-edge compile "$engine"
pstmo-edge info "$engine" --json > "$work/manifest.json"
pstmo-edge eval "$engine" --json > "$work/error.json"
pstmo-edge bench "$engine" --out "$work/report" --json > "$work/bench.json"
(nvpmodel -q 2>/dev/null || echo unknown) > "$work/power_mode.txt"
python3 - "$work" "$out" <<'END'
import json, pathlib, sys
work = pathlib.Path(sys.argv[1])
found = {path.stem: json.loads(path.read_text()) for path in sorted(work.glob("*.json"))}
found["power_mode"] = (work / "power_mode.txt").read_text().split("\n")
pathlib.Path(sys.argv[2]).write_text(json.dumps(found, indent=1) + "\n")
END
echo "$out"
