"""Digests of what a network computes, apart from its weights; equal in every process.

A digest covers the classes of the modules with their code, their plain attributes (`num_heads`, `norm_first`), tensors
outside the state dict, and forward hooks. Code counts by its bytecode and what it refers to in its own module, so
comments don't matter; modules that it refers to or imports while it runs count by their source and all that they
import; code of installed packages by its file. Nothing depends on addresses or on the order of sets.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import json
import sys
import types
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from ftkit.models.source_digest import LIBRARIES, file_digest, imports, is_installed, nested_codes, own_sources

DEEPEST = 12
"""Levels of nested attributes that are described."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_OWN = frozenset(vars(nn.Module())) - set(_HOOKS)
"""Attributes of every module, including the training mode."""
_IDENTITIES = ("torch.nn.modules.dropout", "torchvision.ops.stochastic_depth")
"""Modules whose classes do nothing in eval mode."""
_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
_SKIPPED = frozenset(
    ("__doc__", "__module__", "__dict__", "__weakref__", "__annotations__", "__firstlineno__", "__static_attributes__")
)


def network_identity(network: nn.Module) -> str:
    """Digest of a network without the parameters and buffers of its state dict."""
    saved = {id(tensor) for tensor in network.state_dict(keep_vars=True).values()}
    description = _Description(lambda tensor: None if id(tensor) in saved else tensor)
    return _digest([description.module(name, module) for name, module in network.named_modules()])


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Digest of a network's code and settings, and versions of its packages; to be computed before it is used."""
    roots = sorted({type(module).__module__.partition(".")[0] for module in network.modules()})
    packages = {name: str(getattr(sys.modules.get(name), "__version__", "")) for name in roots}
    return {"identity": network_identity(network), "packages": packages}


def graph_identity(traced: fx.GraphModule) -> str:
    """Digest of a traced network in eval mode: its program, and the modules and functions that it calls.

    Parameters and buffers aren't included, whether a state dict holds them or not, nor are the rates of dropout.
    """
    named = {id(tensor) for tensor in (*traced.parameters(), *traced.buffers())}
    description = _Description(lambda tensor: None if id(tensor) in named else tensor)
    modules = [
        description.module(name, module)
        for name, module in traced.named_modules()
        if module is not traced and type(module).__module__ not in _IDENTITIES
    ]
    called = dict.fromkeys(node.target for node in traced.graph.nodes if node.op == "call_function")
    return _digest([traced.code, modules, [description.of(function) for function in called]])


def modules_identity(modules: Mapping[str, nn.Module], program: Any) -> str:
    """Digest of some modules in eval mode, by name, and of the order in which they run, which is JSON.

    As in `graph_identity`, parameters, buffers and the rates of dropout aren't included.
    """
    description = _Description(lambda tensor: None)
    described = [
        description.module(name, module)
        for name, module in modules.items()
        if type(module).__module__ not in _IDENTITIES
    ]
    return _digest([program, described])


def code_identity(value: object) -> str:
    """Digest of a value's code and attributes, such as a plugin's transform."""
    return _digest(_Description(lambda tensor: tensor).of(value))


class _Description:
    """Describes values as JSON.

    Args:
        included: Returns a module's parameter or buffer if its content counts, else None.
    """

    def __init__(self, included: Callable[[Tensor], Tensor | None]) -> None:
        self._included = included
        self._seen: dict[int, tuple[int, Any]] = {}

    def module(self, name: str, module: nn.Module) -> Any:
        """A module without its submodules."""
        self._remember(module)
        tensors = {**module._parameters, **module._buffers}
        own = {key: tensor for key, tensor in tensors.items() if tensor is not None}
        kept = {key: self._included(tensor) for key, tensor in own.items()}
        attributes = {key: value for key, value in vars(module).items() if key not in _OWN and key not in _HOOKS}
        hooks = {key: list(getattr(module, key).values()) for key in _HOOKS if getattr(module, key)}
        return [
            name,
            self.of(type(module)),
            [(key, str(tensor.dtype), list(tensor.shape)) for key, tensor in sorted(own.items())],
            self.of({key: tensor for key, tensor in kept.items() if tensor is not None}),
            self.of(attributes),
            self.of(hooks),
        ]

    def of(self, value: Any, depth: int = 0) -> Any:
        """Any value; those that can't be described count by their type."""
        if isinstance(value, _PLAIN) and not isinstance(value, enum.Enum):
            return [type(value).__name__, _hashed(value) if isinstance(value, bytes) else str(value)]
        if isinstance(value, Tensor | np.ndarray | np.generic):
            return _array(value)
        if depth > DEEPEST:
            return _name(type(value))
        if not isinstance(value, tuple | frozenset):  # Whether equal ones are the same object varies.
            if id(value) in self._seen:
                return ["again", self._seen[id(value)][0]]
            self._remember(value)
        return self._compound(value, depth + 1)

    def _compound(self, value: Any, depth: int) -> Any:
        if isinstance(value, list | tuple):
            return [type(value).__name__, [self.of(each, depth) for each in value]]
        if isinstance(value, set | frozenset):
            return ["set", sorted((_Description(self._included).of(each, depth) for each in value), key=_text)]
        if isinstance(value, Mapping):
            pairs = sorted(value.items(), key=lambda pair: str(pair[0]) if isinstance(pair[0], _PLAIN) else "")
            return ["mapping", [[self.of(key, depth), self.of(each, depth)] for key, each in pairs]]
        if isinstance(value, enum.Enum):
            return [_name(type(value)), value.name]
        if isinstance(value, nn.Module):
            return [
                self.module(name, part)
                for name, part in value.named_modules()
                if id(part) not in self._seen or part is value
            ]
        if isinstance(value, type) or callable(value):
            return self._code(value, depth)
        return self._object(value, depth)

    def _code(self, value: Any, depth: int) -> Any:
        """A class, a function, or another callable."""
        if isinstance(value, functools.partial):
            return ["partial", self.of(value.func, depth), self.of(value.args, depth), self.of(value.keywords, depth)]
        if isinstance(value, types.MethodType):
            return ["method", self.of(value.__func__, depth), self.of(value.__self__, depth)]
        if isinstance(value, type):
            own = [self._class(each, depth) for each in value.__mro__ if not _is_library(each)]
            return [[_name(each) for each in value.__mro__], own]
        if isinstance(value, types.FunctionType):
            return self._function(value, depth)
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None:
            return [_name(type(value)), self.of(wrapped, depth)]
        if hasattr(value, "__qualname__") or hasattr(value, "__name__"):
            return _name(value)
        return self._object(value, depth)

    def _class(self, cls: type, depth: int) -> Any:
        installed = _installed_file(cls)
        if installed is not None:
            return [_name(cls), installed]
        members = {name: value for name, value in vars(cls).items() if name not in _SKIPPED and name != "_abc_impl"}
        return [_name(cls), [[name, self._member(value, depth)] for name, value in sorted(members.items())]]

    def _member(self, value: Any, depth: int) -> Any:
        if isinstance(value, staticmethod | classmethod):
            return self.of(value.__func__, depth)
        if isinstance(value, property):
            return [self.of(each, depth) for each in (value.fget, value.fset)]
        return self.of(value, depth)

    def _function(self, function: types.FunctionType, depth: int) -> Any:
        if _is_library(function):
            return _name(function)
        installed = _installed_file(function)
        if installed is not None:
            return [_name(function), installed]
        parts = nested_codes(function.__code__)
        names = {name for code in parts for name in code.co_names}
        package = str(function.__globals__.get("__package__") or "")
        # co_names includes attributes, which are described with their objects.
        used = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
        return [
            function.__qualname__,
            [_bytecode(code) for code in parts],
            self.of([function.__defaults__, function.__kwdefaults__], depth),
            [self.of(cell.cell_contents, depth) for cell in function.__closure__ or () if _is_full(cell)],
            [[name, self.of(value, depth)] for name, value in used.items()],
            own_sources(name for code in parts for name in imports(code, package)),
        ]

    def _object(self, value: Any, depth: int) -> Any:
        if isinstance(value, types.ModuleType):
            return [value.__name__, own_sources([value.__name__]) or _installed_file(value)]
        # Loggers, locks and random generators don't decide what is computed.
        if _is_library(type(value)) and not isinstance(value, types.SimpleNamespace | Namespace):
            return _name(type(value))
        slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ()) if isinstance(name, str)]
        attributes = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(
            value, "__dict__", {}
        )
        return [self.of(type(value), depth), self.of(attributes, depth)]

    def _remember(self, value: Any) -> None:
        # A reference is kept, so that no other value gets the same id.
        self._seen.setdefault(id(value), (len(self._seen), value))


def _bytecode(code: types.CodeType) -> Any:
    """The content of a code object without its location."""
    constants = [_constant(each) for each in code.co_consts if not isinstance(each, types.CodeType)]
    names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
    numbers = [code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags]
    return [_hashed(code.co_code), constants, [list(each) for each in names], numbers]


def _constant(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_constant(each) for each in value]
    if isinstance(value, frozenset):
        return sorted((_constant(each) for each in value), key=_text)
    return [type(value).__name__, _hashed(value) if isinstance(value, bytes) else str(value)]


def _is_full(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_library(value: Any) -> bool:
    where = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return (where or "builtins").partition(".")[0] in LIBRARIES


def _installed_file(value: Any) -> str | None:
    """A digest of the file with an installed package's code; None for other code.

    ftkit's own code counts by its bytecode wherever it is: a run may resume in a checkout of the installed version.
    """
    module = str(value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", ""))
    if module.partition(".")[0] == "ftkit":
        return None
    try:
        file = inspect.getfile(value)
    except (TypeError, OSError):
        return None
    return file_digest(file) if is_installed(file) else None


def _array(value: Any) -> Any:
    array = value.detach().cpu() if isinstance(value, Tensor) else np.asarray(value)
    facts = [str(array.dtype), list(array.shape)]
    if isinstance(array, Tensor):
        if array.is_meta or array.layout != torch.strided:
            return ["tensor", *facts]
        array = array.contiguous().reshape(-1).view(torch.uint8).numpy()
    return ["array", *facts, _hashed(array.tobytes()) if array.dtype != object else None]


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _hashed(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(value: Any) -> str:
    return _hashed(_text(value).encode("utf-8", "surrogatepass"))[:32]
