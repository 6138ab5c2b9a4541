"""timm's image models as ftkit backbones: `timm/convnext_tiny`, `timm/convnext_tiny.fb_in22k`.

timm is imported when one of its names is looked up. For its layer groups a network is built without allocating memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from ftkit.api import Backbone, hookimpl, nearest


@hookimpl
def ftkit_backbones() -> Mapping[str, Backbone]:
    return _Models()


class _Models(Mapping[str, Backbone]):
    """Backbones by timm's names. Iteration lists the architectures; a name with a tag selects one set of weights."""

    def __getitem__(self, name: str) -> Backbone:
        from ftkit_timm.models import backbone, is_known

        if not is_known(name):
            raise KeyError(name)
        return backbone(name)

    def __contains__(self, name: object) -> bool:
        from ftkit_timm.models import is_known

        return isinstance(name, str) and is_known(name)

    def index_key(self) -> str:
        """Changes with timm's version, the files of its models, and our numbers of parameters."""
        spec = find_spec("timm")
        folder = Path(spec.origin).parent / "models" if spec is not None and spec.origin else Path()
        files = [*sorted(folder.glob("*.py")), Path(__file__).with_name("parameters.json")]
        stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        return f"timm {version('timm')} {stamps}"

    def similar(self, name: str) -> list[str]:
        """Suggestions for an unknown name with a tag: the most similar tag, else all tags of the architecture."""
        import timm

        from ftkit_timm.models import tags

        architecture, dot, tag = name.partition(".")
        known = architecture if timm.is_model(architecture) else nearest(architecture, timm.list_models())
        if not dot or known is None:
            return []
        close = nearest(tag, tags(known))
        return [f"{known}.{each}" for each in ((close,) if close else tags(known))]

    def __iter__(self) -> Iterator[str]:
        import timm

        return iter(timm.list_models())

    def __len__(self) -> int:
        import timm

        return len(timm.list_models())
