"""The adapters of device memory against cuda-python and pycuda as published; see read_cuda.py."""

import json
from pathlib import Path

import pytest
import read_cuda
import standin

FACTS = json.loads(Path(__file__).with_name("cuda.json").read_text())
BY_SDIST = {name for name in FACTS if name.startswith("pycuda")}


@pytest.mark.parametrize("name", sorted(FACTS.keys() - BY_SDIST))
def test_cuda_python_has_every_function_with_as_many_arguments_as_are_given(name):
    functions, names = read_cuda.used_by_cuda_python()
    assert len(functions) > 10
    assert {each: len(FACTS[name]["functions"][each]) for each in functions} == functions
    assert names | {"name", "major", "minor"} <= set(FACTS[name]["names"])


@pytest.mark.parametrize("name", sorted(BY_SDIST))
def test_pycuda_has_every_name_where_it_is_used(name):
    functions, classes = FACTS[name]["functions"], FACTS[name]["classes"]
    known = {"self.driver": {*functions, *classes["module"]}, "self._gpu": {*classes["Device"]}}
    known |= {"self._context": {*classes["Context"]}, "self.driver.Context": {*classes["Context"]}}
    known |= {"self._stream": {*classes["Stream"]}, "memory": {*classes["DeviceAllocation"]}}
    known |= {"array.base": {*classes["PagelockedHostAllocation"]}}
    used = read_cuda.used_by_pycuda()
    assert set(used) == set(known)
    for owner, names in used.items():
        assert names <= known[owner], owner
    assert functions["memcpy_htod_async"] == functions["memcpy_dtoh_async"] == ["dest", "src", "stream"]
    assert functions["pagelocked_empty"][:2] == ["shape", "dtype"]


def test_the_stand_ins_have_nothing_that_the_packages_have_not():
    memory = standin.FakeMemory()
    functions, names = read_cuda.used_by_cuda_python()
    assert set(vars(standin.cuda_bindings(memory))) <= {*functions, *names}
    driver = FACTS[sorted(BY_SDIST)[-1]]
    assert set(vars(standin.pycuda_driver(memory))) <= {*driver["functions"], *driver["classes"]["module"]}
