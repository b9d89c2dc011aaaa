"""What each driver keeps to, in real processes: simulated accelerators, CUDA over a stand-in, and CUDA.

The stand-in is libcuda in host memory (``support/cudastandin.c``): with it the calls of the CUDA driver are
made, in their order and with their arguments, where there is no GPU. It shows nothing about a GPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from blake3 import blake3

from modelkeep.devices.driver import DeviceFacts, DeviceFailedError, DeviceGoneError, DeviceOutOfMemoryError
from modelkeep_loader.accelerators import Accelerators, SourceOf
from support.devices import MIB, weights
from support.devicesteps import DeviceWorker

pytestmark = pytest.mark.timeout(120)

SIZE = 5 * MIB
ROOM = 6 * MIB  # rounded


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stand-in's libraries."""
    if (compiler := shutil.which("cc")) is None:
        assert "CI" not in os.environ, "a C compiler is missing"
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("standin")
    source = Path(__file__).parents[1] / "support" / "cudastandin.c"
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        built = [
            compiler,
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{name}",
            "-o",
            str(folder / name),
            str(source),
            "-ldl",
        ]
        subprocess.run(built, check=True)
    return folder


@dataclass
class Bench:
    """Accelerators of one kind ("sim", "standin", "cuda"), and processes on them."""

    kind: str
    accelerators: Accelerators
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def facts(self) -> DeviceFacts:
        """The first device."""
        return self.accelerators.devices[0]

    def worker(self) -> DeviceWorker:
        """A new process."""
        return self.stack.enter_context(DeviceWorker("sim" if self.kind == "sim" else "cuda"))

    async def filled(self, source: int) -> int:
        """A new allocation with the bytes of host memory; what workers get of it."""
        target = await self.accelerators.create(self.facts.name, SIZE)
        await self.accelerators.fill(self.facts.name, target, source, SIZE, lambda done: None)
        reader = self.accelerators.reader(target)
        os.close(target)
        self.stack.callback(_close, reader)
        return reader

    async def free(self) -> int:
        """Bytes that are free."""
        return (await self.accelerators.memory(self.facts.name)).free_bytes


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


@pytest_asyncio.fixture(params=["sim", "standin", pytest.param("cuda", marks=pytest.mark.cuda)])
async def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Opened ones of each kind."""
    if request.param == "standin":
        monkeypatch.setenv("LD_LIBRARY_PATH", str(request.getfixturevalue("standin")))
    accelerators = Accelerators("sim:1x64MiB" if request.param == "sim" else "cuda")
    try:
        await accelerators.open()
    except DeviceGoneError as error:
        pytest.skip(f"skipped: no CUDA ({error})")
    found = Bench(request.param, accelerators)
    with found.stack:
        yield found
    await accelerators.close()


@pytest.fixture
def source() -> Iterator[int]:
    """Host memory to copy."""
    made = weights(SIZE)
    yield made
    os.close(made)


def digest(source: int) -> str:
    return hashlib.sha256(os.pread(source, SIZE, 0)).hexdigest()


async def test_what_is_filled_is_read_by_each_worker_and_lives_as_long_as_one_has_it(
    bench: Bench, source: int
) -> None:
    before = await bench.free()
    reader = await bench.filled(source)
    first, second = bench.worker(), bench.worker()
    for worker in (first, second):
        assert worker.do("map", reader, uuid=bench.facts.uuid, size_bytes=ROOM)
        assert worker.do("digest", size_bytes=SIZE) == digest(source)
    os.close(reader)
    first.do("close")
    assert second.do("digest", size_bytes=SIZE) == digest(source)
    os.kill(second.process.pid, signal.SIGKILL)
    second.process.wait()
    if bench.kind == "sim":  # strangers may use a real GPU, and a stand-in counts nothing
        assert await bench.free() == before


async def test_an_address_is_kept_while_nothing_is_there_and_takes_another_allocation(
    bench: Bench, source: int
) -> None:
    other = weights(SIZE)
    first, second = await bench.filled(source), await bench.filled(other)
    worker = bench.worker()
    address = worker.do("map", first, uuid=bench.facts.uuid, size_bytes=ROOM)
    worker.do("unmap")
    worker.do("unmap")
    os.close(first)
    if bench.kind == "sim":
        assert await bench.free() == 64 * MIB - ROOM
    assert worker.do("map_again", second) == address
    assert worker.do("digest", size_bytes=SIZE) == digest(other)
    worker.do("close")
    os.close(other)


async def test_tensors_stay_good_where_another_allocation_comes_to_lie(bench: Bench, source: int) -> None:
    if bench.kind == "standin":
        pytest.skip("torch needs a GPU for it")
    other = weights(SIZE)
    first, second = await bench.filled(source), await bench.filled(other)
    worker = bench.worker()
    address = worker.do("map", first, uuid=bench.facts.uuid, size_bytes=ROOM)
    pointer, count, device, named = worker.do("tensor")
    assert (pointer, count, device) == (address, ROOM, named)
    assert worker.do("tensor_digest", size_bytes=SIZE) == digest(source)
    worker.do("unmap")
    worker.do("map_again", second)
    assert worker.do("tensor_digest", size_bytes=SIZE) == digest(other)
    os.close(other)


async def test_a_worker_that_writes_harms_itself_alone(bench: Bench, source: int) -> None:
    reader = await bench.filled(source)
    neighbour, writer = bench.worker(), bench.worker()
    for worker in (neighbour, writer):
        worker.do("map", reader, uuid=bench.facts.uuid, size_bytes=ROOM)
    if bench.kind == "cuda":
        writer.do("tensor")
    with pytest.raises((EOFError, DeviceFailedError)) as raised:
        writer.do("scribble")
    if raised.type is EOFError:
        assert raised.value.args == (-signal.SIGSEGV,)
    assert neighbour.do("digest", size_bytes=SIZE) == digest(source)
    assert bench.worker().do("map", reader, uuid=bench.facts.uuid, size_bytes=ROOM)


async def test_what_does_not_fit_or_is_not_there_is_told(bench: Bench, source: int) -> None:
    device = bench.facts.name
    with pytest.raises(
        DeviceOutOfMemoryError, match=r"are needed|CUDA_ERROR_OUT_OF_MEMORY \(out of memory\)"
    ):
        await bench.accelerators.create(device, 2 * bench.facts.total_bytes)
    reader = await bench.filled(source)
    worker = bench.worker()
    with pytest.raises(DeviceGoneError, match=r"no simulated accelerator|does not see the GPU"):
        worker.do("map", reader, uuid="GPU-0", size_bytes=ROOM)
    with pytest.raises(DeviceFailedError):
        worker.do("map", reader, uuid=bench.facts.uuid, size_bytes=2 * ROOM)
    with pytest.raises(DeviceFailedError):
        bench.worker().do("map", source, uuid=bench.facts.uuid, size_bytes=ROOM)
    os.close(await bench.accelerators.create(device, SIZE))  # the owner goes on


async def test_registered_memory_and_a_ring_bring_the_same_bytes(bench: Bench) -> None:
    size = 300 * MIB if bench.kind == "cuda" else 40 * MIB  # more pieces than buffers
    large = weights(size, "large")
    device, told = bench.facts.name, list[int]()
    target = await bench.accelerators.create(device, size)
    expected = hashlib.sha256(os.pread(large, size, 0)).hexdigest()
    for keep in ("", "large", "large"):
        await bench.accelerators.fill(device, target, large, size, told.append, keep=keep)
        with bench.worker() as worker:
            worker.do("map", bench.accelerators.reader(target), uuid=bench.facts.uuid, size_bytes=size)
            assert worker.do("digest", size_bytes=size) == expected
    await bench.accelerators.forget("large")
    os.close(target)
    os.close(large)


async def test_parts_of_files_come_where_they_go(bench: Bench, source: int, tmp_path: Path) -> None:
    (path := tmp_path / "weights").write_bytes(data := os.pread(source, SIZE, 0))
    half, target = SIZE // 2 + 1, await bench.accelerators.create(bench.facts.name, SIZE)
    file = os.open(path, os.O_RDONLY)
    sources = [SourceOf(file, digest=True, cached=False)]
    turned = [(0, half, SIZE - half, 0), (0, 0, half, SIZE - half)]
    found = await bench.accelerators.gather(
        bench.facts.name, target, sources, turned, SIZE, lambda done: None
    )
    os.close(file)
    assert found == [blake3(data).hexdigest()]
    worker = bench.worker()
    worker.do("map", bench.accelerators.reader(target), uuid=bench.facts.uuid, size_bytes=ROOM)
    assert worker.do("digest", size_bytes=SIZE) == hashlib.sha256(data[half:] + data[:half]).hexdigest()
    os.close(target)


PIECES = r"""
import mmap, os
from modelkeep.devices import cudacopies, hostmemory
from modelkeep.devices.cuda import Cuda

cudacopies.PIECE_BYTES = 1 << 16
size, driver = (1 << 20) - 5, Cuda()
ours = mmap.mmap(-1, 1 << 20)
mapping = driver.map("cuda:0", driver.create("cuda:0", 2 << 20), 2 << 20, writable=True)
host = os.memfd_create("host")
os.ftruncate(host, 1 << 20)
address = hostmemory.map_file(host, 1 << 20, writable=True)
for registered in (False, True):
    os.pwrite(host, expected := os.urandom(size), 0)
    if registered:
        driver.register(address, size)
    told = []
    driver.copy_in(mapping, address, size, told.append)
    assert told == [*range(1 << 16, size, 1 << 16), size], told
    os.pwrite(host, bytes(size), 0)
    driver.copy_out(mapping, address, size, told.append)
    assert os.pread(host, size, 0) == expected
driver.unregister(address)
"""


def test_pieces_of_a_copy_follow_each_other_through_a_few_buffers(standin: Path) -> None:
    path = os.pathsep.join(part for part in sys.path if part)
    environment = {**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": str(standin)}
    subprocess.run([sys.executable, "-c", PIECES], env=environment, check=True)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("STANDIN_COMPUTE_MODE", "3", "nvidia-smi -c DEFAULT"),
        ("STANDIN_MIG", "1", r"a slice of a GPU \(MIG\)"),
        ("STANDIN_LOST", "1", "GPU is lost"),
    ],
)
async def test_a_gpu_that_cannot_lend_says_why(
    standin: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(standin))
    monkeypatch.setenv(variable, value)
    accelerators = Accelerators("cuda")
    await accelerators.open()
    with pytest.raises(DeviceGoneError, match=f"Nothing can be lent on cuda:0: .*{words}"):
        await accelerators.create("cuda:0", MIB)
    await accelerators.close()


async def test_without_nvidias_driver_cuda_says_so_and_auto_has_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is NVIDIA's driver")
    with pytest.raises(DeviceGoneError, match=r"no NVIDIA driver \(libcuda\)"):
        await Accelerators("cuda").open()
    accelerators = Accelerators("auto")
    await accelerators.open()
    assert not accelerators.devices
