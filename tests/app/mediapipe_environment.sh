#!/usr/bin/env bash
# The tests that need mediapipe, hence NumPy 1, in a virtual environment of their own (0.7 GB):
#   tests/app/mediapipe_environment.sh FOLDER PYTHON
# PYTHON is that of an environment with pstmo-edge installed for development. What mediapipe needs for jax, sound and
# text is left out; `pip install 'pstmo-edge[mediapipe]'` takes all of it.
set -euo pipefail
folder=$1
python=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

install() {
  [ ! -e "$folder/.installed" ] || return 0
  "$python" -m venv "$folder"
  "$folder/bin/pip" install --quiet --no-deps --no-compile \
    'mediapipe>=0.10.18,<0.10.22' 'numpy<2' 'opencv-contrib-python<4.12' absl-py attrs flatbuffers 'protobuf<5' \
    matplotlib contourpy cycler fonttools kiwisolver packaging pillow pyparsing python-dateutil six \
    rtmlib tqdm onnxruntime av pydantic pydantic-core annotated-types typing-extensions typing-inspection \
    rich markdown-it-py mdurl pygments safetensors typer shellingham annotated-doc click \
    pytest pytest-timeout pluggy iniconfig
  touch "$folder/.installed"
}

# The package as it lies in the tree, without a second compilation.
lay_out() {
  rm -rf "$folder.tree" && mkdir -p "$folder.tree/pstmo_edge"
  ln -s "$root"/pstmo_edge/* "$root"/{train,calib,kernels,benchmarks} "$folder.tree/pstmo_edge/"
  "$python" "$here/mediapipe_material.py" "$folder.material"
}

install &
lay_out
wait $!
PSTMO_EDGE_LIBRARY=$("$python" -c 'from pstmo_edge.kernels import native; print(native.path() or "")')
export PSTMO_EDGE_LIBRARY PSTMO_EDGE_TEST_MATERIAL=$folder.material PYTHONPATH=$folder.tree
cd "$root"
exec "$folder/bin/pytest" -p no:cacheprovider "${@:3}" tests/app/test_picture_to_pose.py
