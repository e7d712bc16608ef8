"""Our own kernels for a processor, in C++: built when they are first asked for, and kept on disk.

``torch.ops.pastalm.linears`` multiplies a few rows with large weights in the time that reading the weights takes, and
up to 128 rows of float32; ``torch.ops.pastalm.attend_few`` attends for a few queries to the cache where it lies. They
need a C++ compiler, as torch.compile does; where there is none, or it fails, one sentence says so, and torch's own
kernels do the work.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from pastalm.runtime.reason import reason

CACHE = Path("~/.cache/pastalm/kernels")
FOLDER = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")  # unless CXX names one
FLAGS = ("-std=c++20", "-O3", "-march=native", "-shared", "-fPIC", "-fopenmp", "-DAT_PARALLEL_OPENMP=1", "-w")
SECONDS = 300

_log = logging.getLogger(__name__)


@cache
def load_kernels() -> bool:
    """Build the kernels if they are not there yet; whether they can be used. Takes half a minute once."""
    named = compiler()
    if not named:
        return _without("there is no C++ compiler")
    try:
        _load(shlex.split(named))
    except subprocess.CalledProcessError as error:
        return _without(" ".join(error.stderr.split())[:200] or f"{named} fails")
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        # RuntimeError: there is no home folder; ValueError: CXX has a quotation mark too many
        return _without(reason(error))
    torch.library.register_fake("pastalm::linears", _shape)
    return True


def compiler() -> str:
    """The command of the C++ compiler: what CXX says, else the first that is there; empty if none is."""
    return os.environ.get("CXX") or next((name for name in COMPILERS if shutil.which(name)), "")


def _load(called: list[str]) -> None:
    library = _built(called)
    try:
        torch.ops.load_library(str(library))
    except OSError:  # damaged, or of another machine that shares the home folder
        library.unlink(missing_ok=True)
        torch.ops.load_library(str(_built(called)))


def _built(called: list[str]) -> Path:
    """The library, which is built if none is there that belongs to this source, torch, compiler and processor."""
    sources = sorted(FOLDER.glob("*.cpp"))
    command = [*called, *FLAGS, *map(str, sources), *_torch_flags()]
    read = [path.read_text(encoding="utf-8") for path in (*sources, *sorted(FOLDER.glob("*.h")))]
    key = [*read, torch.__version__, *command, _run([*called, "--version"]), _processor()]
    target = CACHE.expanduser() / f"kernels-{hashlib.sha256(chr(0).join(key).encode()).hexdigest()[:16]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            _run([*command, "-o", str(made)])
            os.replace(made, target)  # whole or not at all, however many build it at once
    return target


def _run(command: list[str]) -> str:
    """What a command says. Raises ``OSError`` or ``SubprocessError`` if it cannot run, fails, or takes too long."""
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=SECONDS)
    return done.stdout


def _torch_flags() -> list[str]:
    """Where torch's headers and libraries are; with the OpenMP that it brings along, since two have threads each."""
    root = Path(torch.__path__[0])
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    own = [str(path) for path in sorted((root / "lib").glob("libgomp*"))[:1]]
    return [abi, f"-I{root / 'include'}", f"-L{root / 'lib'}", *own, "-ltorch_cpu", "-lc10"]


def _processor() -> str:
    """What tells processors apart for which code is made."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _without(why: str) -> bool:
    _log.warning("The kernels in C++ cannot be used (%s); torch's own are used, which are slower.", why)
    return False


def _shape(x: Tensor, weights: list[Tensor], scales: list[Tensor], many: list[Tensor]) -> Tensor:
    return x.new_empty(x.shape[0], sum(weight.shape[0] for weight in many))
