#!/usr/bin/env bash
# A GStreamer pipeline in front of pstmo-edge: whatever GStreamer can decode, scale and turn, with the hardware it knows.
#
#   examples/gstreamer.sh 'v4l2src device=/dev/video0'           pstmo-edge run SOURCE --detector mediapipe --engine engine
#   examples/gstreamer.sh 'filesrc location=walk.mp4 ! decodebin' pstmo-edge run SOURCE --detector rtmlib --view web
#   examples/gstreamer.sh 'nvarguscamerasrc ! nvvidconv'          pstmo-edge run SOURCE ...          (Jetson, CSI camera)
#
# SOURCE in the command is replaced by the pipeline's address. Pictures pass uncompressed over this machine's loopback:
# nothing is encoded twice, and a frame is not older for it. WIDTH, HEIGHT, RATE and PORT may be set.
# Needs gst-launch-1.0 with the base and good plugins (Debian: gstreamer1.0-tools gstreamer1.0-plugins-{base,good}).
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
  exit 2
fi
command -v gst-launch-1.0 >/dev/null || { echo "gst-launch-1.0 is not here: apt-get install gstreamer1.0-tools" >&2; exit 1; }

pipeline=$1
shift
port=${PORT:-5004}
caps="video/x-raw,format=I420,width=${WIDTH:-640},height=${HEIGHT:-480},framerate=${RATE:-30}/1"
# leaky: a pipeline that nobody reads drops its oldest frame and never holds up the camera.
# shellcheck disable=SC2086  # the pipeline is words
gst-launch-1.0 -q $pipeline ! videoconvert ! videoscale ! videorate ! "$caps" \
  ! queue leaky=downstream max-size-buffers=2 max-size-bytes=0 max-size-time=0 \
  ! matroskamux streamable=true ! tcpserversink host=127.0.0.1 port="$port" recover-policy=latest sync-method=latest &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT

for _ in $(seq 100); do  # until it listens
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
  kill -0 "$server" 2>/dev/null || { echo "the pipeline failed: $pipeline" >&2; exit 1; }
  sleep 0.1
done
"${@/#SOURCE/tcp://127.0.0.1:$port}"
