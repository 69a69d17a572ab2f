"""Builds the native code where there is a C++ compiler; without one, Malmoi installs all the same and uses torch.

Everything else about the package stands in pyproject.toml. Both parts, the engine that writes and the fused steps of
training, are plain shared libraries without a line of Python's C API: they are loaded by ctypes, and one build serves
every version of Python on its platform.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ENGINE = Path("src/malmoi/native/engine")
FUSED = "src/malmoi/model/fused.cpp"
# Sums may be reordered, so that they become vectors; infinities and NaN keep their meaning.
FUSED_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
FUSED_FLAGS += ["-fno-signed-zeros", "-fassociative-math"]
X86 = {
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": [
        *("-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"),
        *("-Wno-uninitialized", "-Wno-maybe-uninitialized"),  # gcc 12 takes its own header's undefined lanes for ours
    ],
}
# No multiplication may be joined with an addition unless the source says so: all sets are to give the same bits.
ENGINE_FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-fvisibility=hidden", "-pthread"]
ARM = {"neon": [], "dotprod": ["-march=armv8.2-a+dotprod"]}
MSVC = {"avx2": ["/arch:AVX2"], "avx512": ["/arch:AVX512"]}


def machine() -> str:
    """What is compiled for: x86, arm, or something that only the scalar kernels serve."""
    name = (os.environ.get("MALMOI_NATIVE_MACHINE") or platform.machine()).lower()
    if os.environ.get("ARCHFLAGS"):  # cibuildwheel on a Mac
        name = os.environ["ARCHFLAGS"].split()[-1]
    return {"x86_64": "x86", "amd64": "x86", "arm64": "arm", "aarch64": "arm"}.get(name, "other")


class BuildEngine(build_ext):
    """Compiles each file with the flags of its instruction set. What goes wrong is said in one line and no failure."""

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build(ext)
        except Exception as error:
            if os.environ.get("MALMOI_NATIVE_REQUIRED"):
                raise
            reason = str(error).strip().splitlines()
            print(f"Malmoi: {ext.name} is not built, torch is used instead ({reason[-1] if reason else error}).")

    def _build(self, ext: Extension) -> None:
        if ext.sources == [FUSED]:
            flags = ["/std:c++17", "/O2", "/fp:precise"] if self.compiler.compiler_type == "msvc" else FUSED_FLAGS
            objects = self.compiler.compile([FUSED], output_dir=self.build_temp, extra_postargs=flags)
            self._link(ext, objects, [])
            return
        kind = machine()
        flags = {"x86": X86, "arm": ARM, "other": {}}[kind]
        microsoft = self.compiler.compiler_type == "msvc"
        more = os.environ.get("MALMOI_NATIVE_FLAGS", "").split()  # sanitizers, for example
        general = ["/std:c++17", "/O2", "/EHsc", "/fp:precise"] if microsoft else [*ENGINE_FLAGS, *more]
        macros = {"x86": [("MALMOI_X86", "1")], "arm": [("MALMOI_ARM", "1")], "other": []}[kind]
        special = {f"set_{name}.cpp": (MSVC[name] if microsoft else own) for name, own in flags.items()}
        objects = []
        for source in sorted(ENGINE.glob("*.cpp")):
            if source.name.startswith("set_") and source.name not in {*special, "set_scalar.cpp"}:
                continue
            objects += self.compiler.compile(
                [str(source)],
                output_dir=self.build_temp,
                macros=macros,
                extra_postargs=[*general, *special.get(source.name, [])],
                depends=[str(path) for path in ENGINE.iterdir()],
            )
        self._link(ext, objects, [] if microsoft else ["-pthread", *more])

    def _link(self, ext: Extension, objects: list[str], flags: list[str]) -> None:
        place = Path(self.get_ext_fullpath(ext.name))
        place.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, str(place), extra_postargs=flags, target_lang="c++")

    def get_ext_filename(self, fullname: str) -> str:
        ending = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
        return str(Path(*fullname.split("."))) + ending


class AnyPython(bdist_wheel):
    """The wheel is for a platform, but for no version of Python in particular."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension("malmoi.native._engine", sources=[], optional=True),
        Extension("malmoi.model._fused", sources=[FUSED], optional=True),
    ],
    cmdclass={"build_ext": BuildEngine, "bdist_wheel": AnyPython},
)
