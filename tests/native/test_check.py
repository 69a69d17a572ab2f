"""check.cpp, a program without Python: every instruction set of this machine and of an ARM one gives the same bits.

Where the CPU has no AVX-512, its kernels are compiled all the same, over functions that do what its instructions would
(SIMDe, Debian's libsimde-dev; `emulated/immintrin.h`): slow, but the same source and the same bits.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

import malmoi.native
from malmoi.native.library import instruction_sets, unavailable

ENGINE = Path(malmoi.native.__file__).parent / "engine"
GENERAL = ["-std=c++17", "-O2", "-ffp-contract=off", "-fno-math-errno", "-w", f"-I{ENGINE}", "-pthread"]
SIMDE = Path("/usr/include/simde/x86/avx512.h")
X86 = ["-mavx2", "-mfma", "-mf16c"]
SETS = {
    "scalar": [],
    "avx2": X86,
    "avx512": [*X86, *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni"))],
    "emulated": [*X86, f"-I{Path(__file__).with_name('emulated')}"],
    "neon": [],
    "dotprod": ["-march=armv8.2-a+dotprod"],
}


def lines_of(
    compiler: str, macro: str, sets: tuple[str, ...], folder: Path, *runner: str, emulated: bool = False
) -> list[str]:
    """What the program prints when it is compiled by this compiler for these sets."""
    objects = []
    general = [*GENERAL, f"-D{macro}", *(["-DMALMOI_EMULATED_AVX512"] if emulated else [])]
    for source in (*ENGINE.glob("*.cpp"), Path(__file__).with_name("check.cpp")):
        name = source.stem.removeprefix("set_")
        if source.stem.startswith("set_") and name not in sets:
            continue
        objects.append(str(folder / f"{source.stem}.o"))
        flags = SETS.get("emulated" if emulated and name == "avx512" else name, [])
        command = [compiler, *general, *flags, "-c", str(source), "-o", objects[-1]]
        subprocess.run(command, check=True)
    static = ["-static"] if runner else []
    subprocess.run([compiler, *static, *objects, "-pthread", "-o", str(folder / "check")], check=True)
    return subprocess.run([*runner, folder / "check"], check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.slow
def test_every_machine_gives_the_same_bits(tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("g++ is not here")
    cross = shutil.which("aarch64-linux-gnu-g++")
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    machine = subprocess.run(["g++", "-dumpmachine"], capture_output=True, text=True).stdout
    x86 = machine.startswith("x86_64")
    sets = ("scalar", "avx2", "avx512") if x86 else ("scalar",)
    built = instruction_sets() if unavailable() is None else ()
    emulated = x86 and "avx512" not in built and SIMDE.is_file()
    found = lines_of("g++", "MALMOI_X86" if x86 else "MALMOI_OTHER", sets, tmp_path, emulated=emulated)
    assert not emulated or any(line.endswith("avx512") for line in found)
    if cross is not None and qemu is not None:
        found += lines_of(cross, "MALMOI_ARM", ("scalar", "neon", "dotprod"), tmp_path, qemu)
    hashes = {line.rpartition(" ")[0] for line in found}
    assert len(hashes) == 1, found
    assert len(set(hashes.pop().split())) == 12  # three layouts, four kinds of numbers: all different
