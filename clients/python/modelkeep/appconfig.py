"""The configuration of an application: ``invokeai.yaml``, environment and flags, under the original's names.

::

    from modelkeep.appconfig import AppConfig

    config = AppConfig.get_config()  # the one of this process
    config.parse_args()  # and what the command line says
    print(config.root_path, config.models_path, config.db_path)

Both forms of the file are read: settings in sections below ``InvokeAI`` (version 3), and settings side by
side (version 4 and later). What is set in several places is taken from the first of: the arguments of
:meth:`AppConfig.get_config`, flags, environment (``INVOKEAI_RAM`` and so on), file. Settings that are not
named here are kept as they are, and are attributes too. The file is never written. Needs PyYAML where there
is a file, and nothing of grpc.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, overload

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
)

from modelkeep import yamltext
from modelkeep.configs.problems import violations_of
from modelkeep.exceptions import FieldInvalidException, FieldViolation

#: The file of settings, in the root.
INIT_FILE: Final = "invokeai.yaml"
#: The application's database, in ``db_dir``.
DB_FILE: Final = "invokeai.db"
#: Defaults of ``db_dir`` and ``conf_path``, and what ``model_config_db`` says for the application's database.
DB_DIR: Final = "databases"
CONF_PATH: Final = "configs/models.yaml"
AUTO: Final = "auto"
_SECTION: Final = "InvokeAI"
#: A file of settings may have this many bytes.
_MAX_BYTES: Final = 8 << 20
_PREFIX: Final = "INVOKEAI_"
#: Earlier and later names of settings; they count where the setting itself is not there.
_OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "ram": ("max_cache_ram_gb", "max_cache_size"),
    "vram": ("max_cache_vram_gb", "max_vram_cache_size"),
    "conf_path": ("legacy_models_yaml_path",),
}

#: Settings of which the file may say that there is none; to say so of another sets nothing.
_MAY_BE_NONE: Final = frozenset({"model_config_db", "autoimport_dir"})


def _no_text(value: object) -> object:
    """None in place of what the original's files and command lines say for it."""
    return None if value in ("", "None", "none", "null") else value


def _precision(value: object) -> object:
    return "auto" if value == "autocast" else value  # as the original's own migration does


def _not_zero(value: float | str) -> float | str:
    if value == 0:
        raise ValueError("must be greater than 0")
    return value


_OptionalPath = Annotated[Path | None, BeforeValidator(_no_text)]
_Gigabytes = Annotated[Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)], Field()]


class AppConfig(BaseModel):
    """The settings that have to do with models: paths as they are written, and absolute as ``…_path``."""

    model_config = ConfigDict(extra="allow", validate_assignment=True, protected_namespaces=())

    root: Path = Field(
        description="The application's folder: this argument, --root, INVOKEAI_ROOT, the folder around the "
        "active virtual environment if it has an invokeai.yaml, or ~/invokeai.",
    )
    models_dir: Path = Field(default=Path("models"), description="Folder of installed models.")
    autoimport_dir: _OptionalPath = Field(
        default=None, description="Folder whose models are registered at the start."
    )
    model_config_db: Annotated[
        Literal["auto"] | Path | None, Field(union_mode="left_to_right"), BeforeValidator(_no_text)
    ] = Field(
        default="auto",
        description="Where the records of models are: `auto` (the application's own database), the path of a "
        "database (.db) or of a YAML file (.yaml), or None (`conf_path`).",
    )
    conf_path: Path = Field(default=Path(CONF_PATH), description="The legacy file of models.")
    legacy_conf_dir: Path = Field(
        default=Path("configs"), description="Folder of the configurations of checkpoints."
    )
    db_dir: Path = Field(default=Path(DB_DIR), description="Folder of the application's database.")
    ram: Annotated[_Gigabytes, AfterValidator(_not_zero)] = Field(
        default=7.5, description="Gigabytes of RAM that models may take, or `auto`."
    )
    vram: _Gigabytes = Field(
        default=0.25, description="Gigabytes of VRAM that models may keep while they are not used, or `auto`."
    )
    precision: Annotated[Literal["auto", "float16", "bfloat16", "float32"], BeforeValidator(_precision)] = (
        Field(default="auto", description="Precision that models are loaded in.")
    )
    device: str = Field(default="auto", min_length=1, description="Device that models are loaded onto.")

    #: What the constructor was given.
    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, **settings: Any) -> None:
        """Read the settings; those given here outrank all others.

        Raises:
            FieldInvalidException: A setting, or the file, is bad; of the file the line is told.
        """
        self._read(settings, {})

    @classmethod
    def get_config(cls, **settings: Any) -> Self:
        """The one configuration of this process.

        Args:
            **settings: Settings that outrank all others. Others than those that it was made with make it
                anew; none leave it as it is.

        Raises:
            FieldInvalidException: A setting, or the file, is bad; of the file the line is told.
        """
        with _singletons.lock:
            config = _singletons.configs.get(cls)
            if config is None or (settings and settings != config._given):
                config = _singletons.configs[cls] = cls(**settings)
            assert isinstance(config, cls)
            return config

    def parse_args(self, argv: Sequence[str] | None = None) -> None:
        """Take what a command line says, and read the file of the root that it names.

        Args:
            argv: The command line without the program's name; None: this process's. Flags are the settings'
                names (``--root DIR``, ``--models_dir DIR``, also ``--models-dir``); others are left alone.

        Raises:
            FieldInvalidException: A setting, or the file, is bad; of the file the line is told.
        """
        self._read(self._given, _parse_flags(type(self), sys.argv[1:] if argv is None else argv))

    def _read(self, given: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
        root = Path(given.get("root") or flags.get("root") or find_root())
        layers = [
            _from_file(_absolute(root, Path.cwd()) / INIT_FILE),
            _from_environment(type(self)),
            _Layer(flags, {name: f"--{name}" for name in flags}),
            _Layer(given, {}),
        ]
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for layer in layers:
            values |= layer.values
            origins = {name: said for name, said in origins.items() if name not in layer.values}
            origins |= layer.origins
        values["root"] = _absolute(root, Path.cwd())  # what is current may change
        try:
            super().__init__(**values)
        except ValidationError as error:
            violations = [
                FieldViolation(origins.get(name := bad.field.partition(".")[0], name), bad.description)
                for bad in violations_of(error)
            ]
            raise FieldInvalidException("", violations=violations) from None
        self._given = dict(given)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Without what is only kept, such as tokens."""
        return ((name, getattr(self, name)) for name in type(self).model_fields)

    @property
    def root_path(self) -> Path:
        """The application's folder."""
        return _absolute(self.root, Path.cwd())

    @property
    def init_file_path(self) -> Path:
        """The file of settings."""
        return self.root_path / INIT_FILE

    @property
    def models_path(self) -> Path:
        """Folder of installed models."""
        return self.resolve(self.models_dir)

    @property
    def autoimport_path(self) -> Path | None:
        """Folder whose models are registered at the start; None if there is none."""
        return None if self.autoimport_dir is None else self.resolve(self.autoimport_dir)

    @property
    def db_path(self) -> Path:
        """The application's database."""
        return self.resolve(self.db_dir) / DB_FILE

    @property
    def model_conf_path(self) -> Path:
        """The legacy file of models."""
        return self.resolve(self.conf_path)

    @property
    def legacy_conf_path(self) -> Path:
        """Folder of the configurations of checkpoints."""
        return self.resolve(self.legacy_conf_dir)

    def resolve(self, path: str | os.PathLike[str]) -> Path:
        """A path of the settings, or a record's ``config``, as an absolute one; it starts in the root."""
        return _absolute(path, self.root_path)


def find_root() -> Path:
    """The application's folder where nobody names one; see :attr:`AppConfig.root`."""
    if said := os.environ.get(f"{_PREFIX}ROOT"):
        return Path(said)
    around = Path(os.environ.get("VIRTUAL_ENV") or os.devnull).parent
    return around if (around / INIT_FILE).is_file() else Path("~/invokeai")


@overload
def path_in(config: Any, *names: str) -> Path | None: ...
@overload
def path_in(config: Any, *names: str, default: str | os.PathLike[str]) -> Path: ...
def path_in(config: Any, *names: str, default: str | os.PathLike[str] | None = None) -> Path | None:
    """A path of any object with the attributes of a configuration, as an absolute one.

    Args:
        config: The configuration; a relative path starts in its ``root``.
        *names: Attributes, of which the first counts that says something.
        default: The path if none of them says anything.

    Returns:
        The path, or None if nothing says one.

    Raises:
        FieldInvalidException: An attribute is no path.
    """
    for name in names:
        if (value := getattr(config, name, None)) is not None and not isinstance(value, str | os.PathLike):
            problem = f"is no path, but of type {type(value).__name__}"
            raise FieldInvalidException("", violations=[FieldViolation(name, problem)])
    for value in (*(getattr(config, name, None) for name in names), default):
        if value is not None and str(value):
            root = getattr(config, "root", None) or getattr(config, "root_path", None) or find_root()
            return _absolute(value, _absolute(root, Path.cwd()))
    return None


class _Layer(NamedTuple):
    """Settings of one place, and how an error should call each of them."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]


class _Singletons:
    """The configuration of the process, one of each class."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.configs: dict[type[AppConfig], AppConfig] = {}


_singletons = _Singletons()


def _absolute(path: str | os.PathLike[str], base: Path) -> Path:
    # abspath, so that ".." goes; links stay as they are written.
    return Path(os.path.abspath(base / Path(path).expanduser()))


def _from_environment(cls: type[AppConfig]) -> _Layer:
    said = {name.upper(): (name, text) for name, text in os.environ.items() if text}
    found = {name: said[key] for name in cls.model_fields if (key := f"{_PREFIX}{name.upper()}") in said}
    return _Layer(
        {name: text for name, (_, text) in found.items()},
        {name: variable for name, (variable, _) in found.items()},
    )


def _parse_flags(cls: type[AppConfig], argv: Sequence[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in cls.model_fields:
        parser.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), dest=name)
    try:
        options, _ = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        flag = (error.argument_name or "argv").split("/")[0]
        raise FieldInvalidException("", violations=[FieldViolation(flag, str(error.message))]) from None
    return {name: text for name, text in vars(options).items() if text is not None}


def _from_file(path: Path) -> _Layer:
    """The settings of a file; none if it is not there."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device has no end
            raise _bad_file(path, None, "is no regular file")
        if status.st_size > _MAX_BYTES:
            raise _bad_file(path, None, f"has more than {_MAX_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return _Layer({}, {})
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise _bad_file(path, None, f"cannot be read: {why}") from None
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, value, line in _settings(path, text):
        values[name] = value
        origins[name] = f"{name} in {path}, line {line},"
    # The root is where the file is, wherever it was when it was written.
    values.pop("root", None)
    values = {name: value for name, value in values.items() if value is not None or name in _MAY_BE_NONE}
    for name, others in _OTHER_NAMES.items():
        for other in others:
            if values.get(name) is None and values.get(other) is not None:
                values[name], origins[name] = values[other], origins[other]
    return _Layer(values, origins)


def _settings(path: Path, text: str) -> Iterator[tuple[str, Any, int]]:
    """(name, value, line) of each setting, in the order of the file."""
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        try:
            top = loader.get_single_node()
            if top is None:
                return
            if not isinstance(top, yaml.MappingNode):
                raise _bad_file(path, top.start_mark.line, "has no settings of the form `name: value`")
            for key, node in top.value:
                parts = [(key, node)]
                if key.value == _SECTION and isinstance(node, yaml.MappingNode):  # version 3
                    parts = [
                        pair
                        for category, settings in node.value
                        for pair in (
                            settings.value
                            if isinstance(settings, yaml.MappingNode)
                            else [(category, settings)]
                        )
                    ]
                for name, value in parts:
                    yield str(name.value), loader.construct_object(value, deep=True), name.start_mark.line + 1
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "is no YAML"
        raise _bad_file(path, mark.line if mark else None, problem) from None
    except (yaml.YAMLError, *yamltext.ODD) as error:
        raise _bad_file(path, None, f"is no YAML: {yamltext.said_of(error)}") from None


def _bad_file(path: Path, line: int | None, problem: str) -> FieldInvalidException:
    where = str(path) if line is None else f"{path}, line {line + 1}"
    return FieldInvalidException(
        f"The settings cannot be read: {where}: {problem}.",
        violations=[FieldViolation(where, problem)],
        remedy=f"Mend {path}, or move it away.",
    )
