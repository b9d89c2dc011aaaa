"""The tensors of a file of torch.save, without unpickling it: what torch would find, and nothing is run.

A pickle is a program for a small machine with a stack. Here that program is followed with plain data alone:
where it names a global, a mark stands for it, and only marks of :data:`_GLOBALS` are known; where it calls
one, a description of a tensor comes of it. Nothing is imported and nothing is called, so whatever the file
says can do no more than be refused. The instructions are those that torch.save writes for state dicts, and
bounded; each tensor is checked against the storage that it is a view of, and that against the file.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modelkeep.dtypes import DTYPES
from modelkeep.headers import (
    MAX_DIMENSIONS,
    MAX_NAME_LENGTH,
    MAX_TENSORS,
    Allowance,
    Header,
    Tensor,
    is_countable,
)
from modelkeep.torchzip import Entry, broken, read_entries, read_pickle, unsafe

#: 40 a tensor are usual.
_MAX_INSTRUCTIONS: Final = 1 << 20
#: Tensors may share storages, so that together they may be more than the file; tied weights are.
_MOST_SHARED: Final = 2
#: torch's storages → code of what they hold; "" where each tensor says it.
_STORAGES: Final[Mapping[str, str]] = {
    "torch FloatStorage": "F32",
    "torch DoubleStorage": "F64",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
    "torch.storage UntypedStorage": "",
}
_DTYPES: Final[Mapping[str, str]] = {f"torch {one.name}": code for code, one in DTYPES.items() if one.name}
_DICT: Final = "collections OrderedDict"
_SIZE: Final = "torch Size"
_VIEW: Final = "torch._utils _rebuild_tensor_v2"
_TYPED_VIEW: Final = "torch._utils _rebuild_tensor_v3"
_PARAMETER: Final = "torch._utils _rebuild_parameter"
#: Everything that may be named.
_GLOBALS: Final = frozenset({*_STORAGES, *_DTYPES, _DICT, _SIZE, _VIEW, _TYPED_VIEW, _PARAMETER})
#: Where storages lie in the archive.
_STORAGE: Final = "data/"
#: What checkpoints have their weights under, beside other things.
_STATE: Final = "state_dict"
#: Keys of what is nested are joined by dots, to this depth.
_MOST_NESTED: Final = 3

_CONSTANTS: Final[Mapping[str, Any]] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS: Final = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
    | {"BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"}
)
_TUPLES: Final[Mapping[str, int]] = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class _View:
    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the file.

    Attributes:
        tensor: Name, dtype and shape; ``begin`` and ``end`` are the bytes of the file from its first element
            to its last.
        strides: From one element to the next in each dimension, in elements.
    """

    tensor: Tensor
    strides: tuple[int, ...]


class _Machine:
    """Follows the instructions; see :mod:`modelkeep.pickles`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """What the pickle describes."""
        try:
            return self._followed(data)
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError) as error:
            unsafe(self._path, f"its pickle cannot be followed ({type(error).__name__})")

    def _followed(self, data: bytes) -> Any:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if count >= _MAX_INSTRUCTIONS:
                unsafe(self._path, f"it has more than the {_MAX_INSTRUCTIONS:,} instructions allowed")
            if opcode.name == "STOP":
                if len(self._stack) == 1 and not self._marks and position == len(data) - 1:
                    return self._stack[0]
                break
            self._step(opcode.name, argument)
        raise EOFError

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(stack) - count < self._floor():
                raise IndexError
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name in ("EMPTY_TUPLE", "EMPTY_DICT", "EMPTY_LIST"):
            stack.append({"EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_LIST": list}[name]())
        elif name == "GLOBAL":
            self._named(argument)
        elif name == "STACK_GLOBAL":
            attribute, module = self._pop(), self._pop()
            if type(module) is not str or type(attribute) is not str:
                unsafe(self._path, "it names a global by something else than text")
            self._named(f"{module} {attribute}")
        elif name == "REDUCE":
            arguments, called = self._pop(), self._pop()
            stack.append(self._called(called, arguments))
        elif name == "BINPERSID":
            stack.append(self._storage(self._pop()))
        elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS"):
            self._filled(name)
        elif name == "BUILD":
            self._pop()  # a dict's own attributes: torch keeps versions of modules there
            if type(stack[-1]) is not dict:
                unsafe(self._path, "it sets attributes of something else than a dict")
        elif name not in ("PROTO", "FRAME"):
            unsafe(self._path, f"it has the instruction {name}, which torch.save does not write for tensors")

    def _floor(self) -> int:
        return self._marks[-1] if self._marks else 0

    def _pop(self) -> Any:
        if len(self._stack) <= self._floor():
            raise IndexError
        return self._stack.pop()

    def _since_mark(self) -> list[Any]:
        at = self._marks.pop()
        found = self._stack[at:]
        del self._stack[at:]
        return found

    def _named(self, name: str) -> None:
        if name not in _GLOBALS:
            unsafe(self._path, f"it names {name.replace(' ', '.')[:200]!r}, which no tensor needs")
        self._stack.append(_Global(name))

    def _filled(self, name: str) -> None:
        if name.endswith("S"):
            items = self._since_mark()
        else:
            items = [self._pop() for _ in range(1 if name == "APPEND" else 2)][::-1]
        if len(self._stack) <= self._floor():
            raise IndexError
        target = self._stack[-1]
        if name.startswith("APPEND"):
            if type(target) is not list:
                raise TypeError
            target += items
            return
        if type(target) is not dict or len(items) % 2:
            raise TypeError
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # to hash what is nested may take for ever
                raise TypeError
            target[key] = value

    def _called(self, called: object, arguments: object) -> Any:
        if type(called) is not _Global or type(arguments) is not tuple:
            unsafe(self._path, "it calls something that is no global, or without arguments")
        if (make := _CALLS.get(called.name)) is None:
            unsafe(self._path, f"it calls {called.name.replace(' ', '.')}, which torch.save does not write")
        return make(arguments)

    def _storage(self, told: object) -> _Storage:
        if type(told) is not tuple or len(told) != 5 or type(told[0]) is not str or told[0] != "storage":
            unsafe(self._path, "it refers to something else than a storage")
        _, kind, key, _place, count = told
        if type(kind) is not _Global or kind.name not in _STORAGES:
            unsafe(self._path, "it refers to a storage of no known type")
        if type(key) is not str or not _is_count(count):
            unsafe(self._path, "it refers to a storage without a name or size")
        return _Storage(_STORAGES[kind.name], key, count)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _counts(value: object) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > MAX_DIMENSIONS or not all(map(_is_count, value)):
        raise ValueError
    return value


def _dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise ValueError
    return {}


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    (shape,) = arguments
    return _counts(shape)


def _view(arguments: tuple[Any, ...], dtype: str = "") -> _View:
    storage, offset, shape, strides, _requires_grad, hooks, *notes = arguments
    if type(storage) is not _Storage or not _is_count(offset) or hooks or any(notes):
        raise ValueError
    shape, strides = _counts(shape), _counts(strides)
    if len(shape) != len(strides) or bool(storage.dtype) == bool(dtype):
        raise ValueError
    return _View(storage, dtype or storage.dtype, offset, shape, strides)


def _typed_view(arguments: tuple[Any, ...]) -> _View:
    *plain, dtype = arguments[:7]
    if type(dtype) is not _Global or dtype.name not in _DTYPES or any(arguments[7:]):
        raise ValueError
    return _view(tuple(plain), _DTYPES[dtype.name])


def _parameter(arguments: tuple[Any, ...]) -> _View:
    view, _requires_grad, hooks = arguments
    if type(view) is not _View or hooks:
        raise ValueError
    return view


_CALLS: Final[Mapping[str, Callable[[tuple[Any, ...]], Any]]] = {
    _DICT: _dict,
    _SIZE: _size,
    _VIEW: _view,
    _TYPED_VIEW: _typed_view,
    _PARAMETER: _parameter,
}


def read_stored(fd: int, path: Path) -> dict[str, Stored]:
    """The tensors of the file behind a descriptor, by name. Blocks: call it from a thread.

    Those under ``state_dict`` where there is such an entry, of what is beside it none.

    Args:
        fd: Open descriptor of a regular file; its position is left alone.
        path: What to call the file in messages.

    Raises:
        UnsafeFormatException: It is no file that torch.save writes for tensors; what it names is named.
        InvalidModelException: It is cut off, or holds something else than named tensors.
        OSError: It cannot be read.
    """
    entries = read_entries(fd, path)
    root = _Machine(path).run(read_pickle(fd, path, entries))
    if type(root) is dict and type(root.get(_STATE)) is dict:
        root = root[_STATE]
    if not (views := _Names(path).of(root)):
        broken(path, "it holds no tensor")
    found = {name: _stored(path, name, view, entries) for name, view in views.items()}
    together = sum(one.tensor.size_bytes for one in found.values())
    held = sum(entry.size_bytes for name, entry in entries.items() if name.startswith(_STORAGE))
    if together > _MOST_SHARED * held:
        unsafe(path, f"its tensors would be {together:,} bytes, of {held:,} that are there")
    return found


def read_pickled(fd: int, path: Path, *, allowance: Allowance | None = None) -> Header:
    """The same, as a header: what a safetensors file with these tensors would say.

    Args:
        fd: Open descriptor of a regular file; its position is left alone.
        path: What to call the file in messages.
        allowance: What is left for the headers of this model's files; what this one takes is taken off.

    Raises:
        UnsafeFormatException, InvalidModelException, OSError: See :func:`read_stored`.
    """
    found = read_stored(fd, path)
    left = allowance if allowance is not None else Allowance()
    left.tensors -= len(found)
    if left.tensors < 0:
        broken(path, f"with it the model has more than the {MAX_TENSORS:,} tensors allowed")
    entries = {
        name: {
            "dtype": one.tensor.dtype,
            "shape": list(one.tensor.shape),
            "data_offsets": [one.tensor.begin, one.tensor.end],
        }
        for name, one in found.items()
    }
    last = max(one.tensor.end for one in found.values())
    return Header(path, entries, {}, last, 0)


class _Names:
    """Gives each tensor of nested dicts its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._views: dict[str, _View] = {}
        self._left = MAX_TENSORS

    def of(self, root: object) -> dict[str, _View]:
        """Name → tensor."""
        self._collect(root, "", 0)
        return self._views

    def _collect(self, value: object, name: str, depth: int) -> None:
        # Of all that is looked at: dicts may hold each other many times over.
        self._left -= 1
        if self._left < 0 or len(name) > MAX_NAME_LENGTH:
            broken(self._path, "longer names or more tensors than any model has")
        if type(value) is _View:
            if any("\ud800" <= character <= "\udfff" for character in name):
                broken(self._path, f"the name {name[:100]!a} is no text that UTF-8 can hold")
            if name in self._views:
                broken(self._path, f"it has two tensors called {name[:100]}")
            self._views[name] = value
            return
        if type(value) is not dict or depth > _MOST_NESTED or not all(type(key) is str for key in value):
            where = f" at {name[:100]}" if name else ""
            broken(self._path, f"it holds something else than named tensors{where}")
        for key, inner in value.items():
            self._collect(inner, f"{name}.{key}" if name else key, depth + 1)


def _stored(path: Path, name: str, view: _View, entries: Mapping[str, Entry]) -> Stored:
    called = name[:100]
    if (entry := entries.get(f"{_STORAGE}{view.storage.key}")) is None:
        broken(path, f"the storage of {called} is not there")
    if not is_countable(view.shape):
        broken(path, f"{called} has more elements than can be counted")
    width = DTYPES[view.dtype].bits // 8
    held = view.storage.count * (width if view.storage.dtype else 1)
    is_empty = 0 in view.shape
    span = 0
    if not is_empty:
        span = 1 + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    first = 0 if is_empty else view.offset * width
    if held > entry.size_bytes or first + span * width > held:
        broken(path, f"{called} reaches beyond its storage")
    tensor = Tensor(name, view.dtype, view.shape, entry.begin + first, entry.begin + first + span * width)
    if tensor.size_bytes > _MOST_SHARED * entry.size_bytes:
        unsafe(path, f"{called} would be {tensor.size_bytes:,} bytes, of {entry.size_bytes:,} that are there")
    return Stored(tensor, view.strides)
