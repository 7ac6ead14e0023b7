"""Launch plans and the command that makes them: what triton really compiles is what a plan says of it."""

import os
import subprocess
import sys

import pytest
from native_build import native_bundle
from typer.testing import CliRunner

from pstmo_edge import cli
from pstmo_edge.errors import UsageError

CHECK = """
from pstmo_edge.errors import BackendError
from pstmo_edge.kernels.triton import aot, tuning
from pstmo_edge.kernels.triton.plan import Source, compiler_for

head = next(variant for variant in aot.variants("fp16") if variant.name == "head")
constants = tuning.constants(head.kernel, tuning.TABLE["head", "single"].few) | head.constants
names = [name for name in ("x_ptr", "w_ptr", "b_ptr", "out_ptr", "rows", "eps")]
source = Source(
    head.kernel, tuple((name, head.types[name]) for name in names), tuple(sorted(constants.items())),
    tuning.TABLE["head", "single"].few,
)
made = compiler_for(87)(source)
assert made.cubin[:4] == b"\\x7fELF" and made.entry == "norm_linear" and made.threads == 128, made
print("entry and parameters agree")
aot.parameters = lambda ptx: ["u64"] * 9
try:
    compiler_for(87)(source)
except BackendError as error:
    print(error)
"""


def test_what_triton_compiles_takes_the_parameters_of_the_plan():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "entry and parameters agree" in done.stdout
    assert "launches norm_linear in a way that plans do not know: it takes u64, u64" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--single-launch"], "--single-launch is for --gpu"),
        ([], "is for native, which needs no compiling on a CPU: give --gpu with the chip, --gpu sm_87, to add kernels"),
        (["--gpu", "sm_75"], "no kernels for sm_75: choose among sm_80, sm_86, sm_87"),
    ],
)
def test_options_that_do_not_fit(options, said):
    answer = CliRunner().invoke(cli.app, ["compile", str(native_bundle("tiny")), *options])
    assert isinstance(answer.exception, UsageError), answer.output
    assert said in str(answer.exception)
