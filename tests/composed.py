"""Configs composed once per process of tests: Hydra's slowest steps give what they gave before, for the same question.

A command line is composed in 0.2 s, and the tests have thousands of them. Two thirds of that are for what most have in
common: to read the files of a command's groups, and to merge them. A file of a package is read once; the merging is
done once per command and choices of groups, and per contents of the files where these may change (those of `-cd`); what
was typed for a single option is applied, checked and resolved each time. Nothing is kept of what is refused.
"""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.object_type import ObjectType

_read: dict[tuple[str, str], bytes] = {}  # of packages' files, by package and name: what they say
_listed: dict[tuple[Any, ...], DefaultsList] = {}
_merged: dict[int, bytes] = {}  # of the defaults of such a list: the config, before what is typed is applied

_load: Callable[..., Any] = ConfigRepository.load_config
create_defaults_list: Callable[..., DefaultsList] = config_loader_impl.create_defaults_list
_compose: Callable[..., Any] = ConfigLoaderImpl._compose_config_from_defaults_list


def _file(self: ConfigRepository, config_path: str) -> Any:
    source = self._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or source.scheme() != "pkg":
        return _load(self, config_path)
    if (key := (source.path, config_path)) not in _read:
        _read[key] = pickle.dumps(_load(self, config_path))
    return pickle.loads(_read[key])  # anew for each, as who gets it takes it apart


def _defaults_list(repo: Any, config_name: str | None, overrides_list: list[Any], **options: bool) -> DefaultsList:
    typed = Overrides(repo=repo, overrides_list=overrides_list)
    options_only = {id(override) for override in typed.config_overrides}
    choices = [each.input_line for each in overrides_list if id(each) not in options_only]
    key = (config_name, *choices, *options.items(), *map(_contents, repo.get_sources()))
    if key not in _listed:
        _listed[key] = create_defaults_list(repo, config_name, overrides_list, **options)
    kept = _listed[key]
    typed.known_choices = dict(kept.overrides.known_choices)
    return replace(kept, config_overrides=typed.config_overrides, overrides=typed)


def _contents(source: Any) -> tuple[Any, ...]:
    """What a source says: of a folder its files; of a package and of Hydra itself, which are as installed, the name."""
    files = sorted(Path(source.path).rglob("*.yaml")) if source.scheme() == "file" else []
    return source.full_path(), *[(path, path.read_bytes()) for path in files]


def _config(self: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> Any:
    if not any(defaults is kept.defaults for kept in _listed.values()):
        return _compose(self, defaults, repo)
    if id(defaults) not in _merged:
        _merged[id(defaults)] = pickle.dumps(_compose(self, defaults, repo))
    return pickle.loads(_merged[id(defaults)])


ConfigRepository.load_config = _file
config_loader_impl.create_defaults_list = _defaults_list
ConfigLoaderImpl._compose_config_from_defaults_list = _config
