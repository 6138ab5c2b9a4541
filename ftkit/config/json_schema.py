"""The JSON schema of `ftkit.yaml`, for editors: keys of the config, names and options of parts."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, to_jsonable_python

from ftkit.config.choices import AUTO, CHOICES, LISTS
from ftkit.config.load import AUTO_SECTIONS, CATALOGS, class_of
from ftkit.config.plugin_options import is_required, option_fields, option_types
from ftkit.config.schema import Config
from ftkit.parts.strategy import Strategy
from ftkit.plugins import Fault, Registry
from ftkit.plugins.loading import reason
from ftkit.transforms.augmentation import LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterable

Schema = dict[str, Any]
_STRATEGY_IN_STRATEGY: Schema = {"$ref": "#/properties/strategy"}


def json_schema(registry: Registry) -> Schema:
    """The schema, draft 2020-12. It includes the parts of installed plugins and of the project's own."""
    schema = Config.model_json_schema()
    definitions: Schema = schema["$defs"]
    properties: Schema = schema["properties"]
    catalogs = registry.catalogs
    names: dict[str, Iterable[str]] = {"augment": LEVELS, **{s: catalogs[plural] for s, plural in CATALOGS.items()}}
    for section, known in names.items():
        choice = _choice(section, known, registry, definitions)
        properties[section] |= {"items": choice} if section in LISTS else choice
    properties["backbone"]["enum"] = [AUTO, *registry.backbones]
    properties["monitor"]["enum"] = [AUTO, *registry.metrics]
    for section in CHOICES:
        properties[section].pop("$ref", None)
    for definition in ("Choice", "DatasetChoice", "OptimizerChoice"):
        definitions.pop(definition)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "ftkit.yaml"}


def _choice(section: str, names: Iterable[str], registry: Registry, definitions: Schema) -> Schema:
    """A name if no option is required, or a mapping of name and options, for each known part."""
    chosen = None if section in LISTS else Config.model_fields[section].get_default()
    default = None if chosen is None else chosen.name
    shared = definitions[type(chosen).__name__]["properties"] if chosen is not None else {}
    bare, mappings = [AUTO] if section in AUTO_SECTIONS else [], []
    for name in names:
        mapping = _described(section, name, registry, definitions)
        if mapping is None:
            continue
        bare += [] if mapping["required"] else [name]
        mapping["properties"] = {**mapping["properties"], **shared, "name": {"const": name}}
        mapping["required"] = [*([] if name == default else ["name"]), *mapping["required"]]
        mappings.append(mapping)
    found: Schema = {"oneOf": [{"enum": bare}, *mappings]} if mappings else {"not": {}}
    return found if default is None else {**found, "default": default}


def _described(section: str, name: str, registry: Registry, definitions: Schema) -> Schema | None:
    """The options of a part; None if its plugin fails, which is added to the registry's faults."""
    try:
        return _options(class_of(section, name, registry), definitions)
    except Exception as error:
        plugin, slash, _ = name.partition("/")
        if not slash:
            raise
        registry.faults.append(Fault(plugin, f"{section} {name!r} can't be described: {reason(error)}"))
        return None


def _options(cls: type, definitions: Schema) -> Schema:
    fields, types = option_fields(cls), option_types(cls)
    properties = {}
    for name, field in fields.items():
        properties[name] = _option(types[name], definitions)
        default = field.default if not is_required(field) and not callable(field.default_factory) else ...
        if default is not ...:
            try:
                properties[name]["default"] = to_jsonable_python(default)
            except PydanticSerializationError:
                continue
    found: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    found["required"] = [name for name, field in fields.items() if is_required(field)]
    if cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("):
        found["description"] = inspect.cleandoc(cls.__doc__).split("\n\n")[0]
    return found


def _option(annotation: Any, definitions: Schema) -> Schema:
    if isinstance(annotation, type) and issubclass(annotation, Strategy):
        return dict(_STRATEGY_IN_STRATEGY)
    schema = TypeAdapter(annotation).json_schema()
    definitions.update(schema.pop("$defs", {}))
    return schema
