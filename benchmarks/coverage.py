"""What can be read of what people have: config files, transformers' own classes, ids of the Hub.

    python benchmarks/coverage.py [FOLDER ...] [--hub FILE.csv] [--refused]

1. Every config.json in the folders (the catalog's own, unless others are given): accepted, with as many parameters as
   transformers' class on the meta device, towers included; or refused, and why. A file is compared where transformers
   knows its type and has a class for what its `architectures` names.
2. The default config of every type in transformers' causal-LM mapping, and of every wrapper of pictures or sound.
3. Ids of the Hub, of a table with the columns id, downloads_a_month and architecture: the share of the downloads whose
   id, as it stands, is answered.

--refused lists what was refused, and each difference is listed always. Needs the extra torch.
"""

from __future__ import annotations

import argparse
import csv
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

import llmhw
from llmhw.families import ENCODERS, key_of
from llmhw.families.heads import DRAFTS
from llmhw.model import ModelSpec
from llmhw.sources.local import read
from llmhw.units import LLMHWError

ROOT = Path(__file__).parents[1]
CAUSAL = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
WRAPPERS = {
    **modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    **modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
}
OTHERS = modeling_auto.MODEL_MAPPING_NAMES


def built(config: Any, architectures: Iterable[str] = ()) -> torch.nn.Module | None:
    """transformers' model of a config, without storage; None where it has no class for it."""
    kind = config.model_type
    named = [*architectures, WRAPPERS.get(kind), CAUSAL.get(kind), OTHERS.get(kind)]
    names = [name for entry in named for name in ([entry] if isinstance(entry, str) else entry or ())]
    for name in names:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            with torch.device("meta"):
                made: torch.nn.Module = found._from_config(config, attn_implementation="eager")
            return made
    return None


def theirs(data: Mapping[str, Any]) -> int | str:
    """The parameters that transformers' class has by a config; why there is none to compare with."""
    kind = data.get("model_type")
    if kind not in CONFIG_MAPPING:
        return "transformers does not know the type"
    architectures = data.get("architectures") or []
    if set(architectures) & DRAFTS.keys():
        return "transformers has no class for the draft"
    left = ("quantization_config", "compression_config", "auto_map", "dtype", "torch_dtype")
    try:
        model = built(CONFIG_MAPPING[kind].from_dict({k: v for k, v in data.items() if k not in left}), architectures)
    except Exception as error:  # whatever a class of transformers does with a file that is not of its release
        return f"transformers cannot build it: {type(error).__name__} {str(error).splitlines()[:1]}"
    return sum(p.numel() for p in model.parameters()) if model else "transformers has no class for it"


def ours(data: Mapping[str, Any], name: str) -> int | str:
    """The parameters that the library counts by a config; why it refuses it."""
    try:
        return ModelSpec.from_config(data, name=name).parameters.total
    except LLMHWError as error:
        return str(error)


class Count:
    """Answers, and what they come to."""

    def __init__(self, title: str, list_refused: bool) -> None:
        self.title, self.list_refused = title, list_refused
        self.refused: list[tuple[str, str]] = []
        self.numbers: Counter[str] = Counter()

    def add(self, name: str, found: int | str, right: int | str) -> None:
        self.numbers["all"] += 1
        if isinstance(found, str):
            self.numbers["refused"] += 1
            self.refused.append((name, found))
            return
        self.numbers["accepted"] += 1
        if isinstance(right, str):
            self.numbers["not compared"] += 1
            if self.list_refused:
                print(f"  not compared: {name}: {right}")
        elif found == right:
            self.numbers["equal"] += 1
        else:
            self.numbers["different"] += 1
            print(f"  DIFFERENT {name}: {found:,} where transformers has {right:,} ({found - right:+,})")

    def tell(self) -> None:
        print(f"{self.title}: " + ", ".join(f"{number} {what}" for what, number in self.numbers.items()))
        for name, why in self.refused if self.list_refused else ():
            print(f"  refused: {name}: {why[:200]}")


def files(folder: Path, list_refused: bool) -> None:
    count, others = Count(str(folder), list_refused), 0
    for path in sorted(folder.rglob("*.json")):
        data = json.loads(path.read_text("utf-8"))
        if not isinstance(data, dict):
            others += 1
            continue
        try:
            name, config = read(str(path), "config")
        except LLMHWError as error:
            count.add(path.name, str(error), "")
            continue
        # what is in a form of its own, such as params.json, is compared as the config that it is read into
        right = theirs(config if "model_type" in config else data)
        count.add(path.name, ours(config, name), right)
    count.tell()


def mapping(title: str, types: Iterable[str], list_refused: bool) -> None:
    count = Count(title, list_refused)
    for kind in sorted(types):
        try:
            config = CONFIG_MAPPING[kind]()
            data = config.to_dict()
        except Exception as error:  # a few have no default config
            count.add(kind, f"transformers has no default config: {error}", "")
            continue
        found = ours(data, kind)
        count.add(kind, found, theirs(data) if isinstance(found, int) else "")
    count.tell()


def hub(path: Path, list_refused: bool) -> None:
    """Shares of downloads of all ids, and of those that are no encoders of text, sound or pictures alone."""
    asked: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for row in csv.DictReader(path.read_text("utf-8").splitlines()):
        downloads = int(row["downloads_a_month"])
        groups = ["all", *(["decoders"] if not _encoder(row["architecture"]) else [])]
        asked.update(dict.fromkeys(groups, downloads))
        try:
            llmhw.model(row["id"])
        except LLMHWError as error:
            if list_refused:
                print(f"  refused: {row['id']} ({row['architecture']}, {downloads:,}): {str(error)[:160]}")
            continue
        found.update(dict.fromkeys(groups, downloads))
    for group, downloads in asked.items():
        print(f"{path}: {found[group] / downloads:.1%} of the downloads of {group} by id as it stands")


def _encoder(architecture: str) -> bool:
    try:
        return key_of(architecture) in ENCODERS
    except LLMHWError:
        return architecture not in CAUSAL and architecture not in WRAPPERS and architecture in OTHERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT / "llmhw" / "catalog" / "models"])
    parser.add_argument("--hub", type=Path, default=ROOT / "tests" / "unit" / "hub_downloads.csv")
    parser.add_argument("--refused", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    for folder in options.folders:
        files(folder, options.refused)
    mapping("transformers' causal language models", CAUSAL, options.refused)
    mapping("transformers' wrappers", WRAPPERS, options.refused)
    hub(options.hub, options.refused)


if __name__ == "__main__":
    main()
