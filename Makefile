# make demo   an INT8 engine from the bundled checkpoint and motion, its error and its speed
# make test   lint, types and all tests
# make sanitize   the native tests under ASan with UBSan, and under TSan
# make mediapipe   pictures through mediapipe to poses, in an environment with NumPy 1
# make arm    the library and its tests for 64-bit ARM, cross-compiled and run under qemu-user
# The first two make their own virtual environment. PYTHON=python3.12 picks the interpreter (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n logical

BIN := $(VENV)/bin
MAPPED := train calib kernels benchmarks
CXX_FILES := $(shell find kernels examples tests/native tests/trt -name '*.h' -o -name '*.cu' -o -name '*.hpp' -o -name '*.cc' -o -name '*.c' 2>/dev/null)
# Python files need no reinstall (the install is editable); what is compiled or declared does.
INSTALL_INPUTS := pyproject.toml constraints.txt CMakeLists.txt pstmo_edge/_version.py \
                  $(shell find kernels cmake -name '*.h' -o -name '*.cc' -o -name '*.map' -o -name '*.cmake')

.PHONY: demo test install lint types pytest mediapipe sanitize arm format clean

demo: $(VENV)/.installed
	$(BIN)/pstmo-edge build --precision int8 --force
	$(BIN)/pstmo-edge eval
	$(BIN)/pstmo-edge bench --force

test: lint types pytest

install: $(VENV)/.installed

# The stamp is touched last, so an interrupted install starts again.
$(VENV)/.installed: $(INSTALL_INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'make needs Python 3.11 or newer: make PYTHON=python3.12'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -c constraints.txt -e '.[build,openvino,data,dev]'
	@$(BIN)/python -c 'from pstmo_edge.kernels import native; \
	  print("native library:", native.version() or f"MISSING: {native.why_unavailable()}")'
	@touch $@

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

# mypy does not follow the import hook of an editable install, so it is shown one package made of links.
types: $(VENV)/.installed
	rm -rf build/types && mkdir -p build/types/pstmo_edge
	ln -s $(CURDIR)/pstmo_edge/* $(addprefix $(CURDIR)/,$(MAPPED)) build/types/pstmo_edge/
	cd build/types && $(abspath $(BIN))/python -m mypy --config-file $(CURDIR)/pyproject.toml \
	  --cache-dir $(CURDIR)/.mypy_cache -p pstmo_edge

# One thread for each test process: pytest already uses all cores.
pytest: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

# From pictures to poses: mediapipe needs NumPy 1, so these tests have a virtual environment of their own.
mediapipe: $(VENV)/.installed
	tests/app/mediapipe_environment.sh $(abspath build/mediapipe) $(abspath $(BIN))/python -q

# The tests of the native library under each preset of CMakePresets.json; PRESET_TESTS picks some.
sanitize arm:
	for preset in $(if $(filter arm,$@),arm,asan tsan); do \
	  cmake --preset $$preset && cmake --build --preset $$preset -j $$(nproc) && \
	  ctest --preset $$preset $(PRESET_TESTS) || exit 1; \
	done

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

clean:
	rm -rf $(VENV) build dist engine report .mypy_cache .pytest_cache .ruff_cache .hypothesis
