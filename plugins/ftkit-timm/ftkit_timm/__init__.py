"""timm's image models as ftkit backbones: `timm/convnext_tiny`, `timm/convnext_tiny.fb_in22k`.

timm is imported when a name of it is asked for, not before; a network is built without memory for its weights
when its layer groups are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ftkit.api import Backbone, hookimpl, nearest


@hookimpl
def ftkit_backbones() -> Mapping[str, Backbone]:
    return _Models()


class _Models(Mapping[str, Backbone]):
    """Backbones by timm's names. Listed are the architectures; a name with a tag stands for one set of weights."""

    def __getitem__(self, name: str) -> Backbone:
        from ftkit_timm.models import backbone, is_known

        if not is_known(name):
            raise KeyError(name)
        return backbone(name)

    def __contains__(self, name: object) -> bool:
        from ftkit_timm.models import is_known

        return isinstance(name, str) and is_known(name)

    def similar(self, name: str) -> list[str]:
        """Names with a tag that one may have meant: with the nearest tag, else with each of the architecture."""
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
