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
import re
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


# Where transformers' class holds other weights than the published checkpoint.
OTHERWISE = {
    "longcat_flash": "transformers has rows of gate_up_proj for experts without weights",
}
# Parts of a model of pictures or sound, by the names of transformers' modules.
_TOWER = re.compile("vision|visual|image|audio|speech|projector|embed_vision|embed_audio|connector|merger|newline")


def built(config: Any, architectures: Iterable[str] = ()) -> torch.nn.Module | None:
    """transformers' model of a config, without storage; None where it has no class for what is named."""
    kind = config.model_type
    tables = (OTHERS, CAUSAL) if kind in ENCODERS or _synonym(kind) else (WRAPPERS, CAUSAL, OTHERS)
    named = list(architectures) or [next((table[kind] for table in tables if kind in table), None)]
    for name in [name for entry in named for name in ([entry] if isinstance(entry, str) else entry or ())]:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            with torch.device("meta"):
                made: torch.nn.Module = found._from_config(config, attn_implementation="eager")
            return getattr(made, "thinker", made)  # of the Omni models the part that is served
    return None


def _synonym(kind: str) -> bool:
    return any(kind in family.synonyms for family in ENCODERS.values())


def config_of(data: Mapping[str, Any]) -> Any:
    """transformers' config object, with the flag for tied embeddings as the release that wrote the file meant it."""
    left = ("quantization_config", "compression_config", "auto_map", "dtype", "torch_dtype")
    config = CONFIG_MAPPING[data["model_type"]].from_dict({k: v for k, v in data.items() if k not in left})
    text = data.get("text_config")
    if isinstance(text, Mapping) and str(data.get("transformers_version", "")).startswith("4."):
        # transformers 4 asked the text model, and then its class
        flag = text.get("tie_word_embeddings", data.get("tie_word_embeddings"))
        config.tie_word_embeddings = config.text_config.tie_word_embeddings if flag is None else flag
    return config


def theirs(data: Mapping[str, Any], text_only: bool = False) -> int | str:
    """The parameters that transformers' class has by a config; why there is none to compare with.

    text_only   without towers, which a config leaves out
    """
    kind = data.get("model_type")
    if kind not in CONFIG_MAPPING:
        return "transformers does not know the type"
    if kind in OTHERWISE:
        return OTHERWISE[kind]
    architectures = data.get("architectures") or []
    if set(architectures) & DRAFTS.keys():
        return "transformers has no class for the draft"
    try:
        model = built(config_of(data), architectures)
    except Exception as error:  # whatever a class of transformers does with a file that is not of its release
        return f"transformers cannot build it: {type(error).__name__} {str(error).splitlines()[:1]}"
    if model is None:
        return f"transformers has no class {', '.join(architectures)}"
    return sum(p.numel() for n, p in model.named_parameters() if not (text_only and _TOWER.search(n)))


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


def compare(count: Count, data: Mapping[str, Any], name: str) -> None:
    """Counts one config."""
    try:
        spec = ModelSpec.from_config(data, name=name)
    except LLMHWError as error:
        count.add(name, str(error), "")
        return
    text_only = (
        bool(spec.left_out) and not spec.towers and not set(spec.left_out) <= {"talker", "token2wav", "code2wav"}
    )
    count.add(name, spec.parameters.total, theirs(data, text_only))


def files(folder: Path, list_refused: bool) -> None:
    count = Count(str(folder), list_refused)
    for path in sorted(folder.rglob("*.json")):
        data = json.loads(path.read_text("utf-8"))
        if not isinstance(data, dict):
            continue
        try:
            _, config = read(str(path), "config")
        except LLMHWError as error:
            count.add(path.name, str(error), "")
            continue
        compare(count, config, path.name)
    count.tell()


def mapping(title: str, types: Iterable[str], list_refused: bool) -> None:
    count = Count(title, list_refused)
    for kind in sorted(types):
        try:
            data = CONFIG_MAPPING[kind]().to_dict()
        except Exception as error:  # a few have no default config
            count.add(kind, f"transformers has no default config: {str(error).splitlines()[0]}", "")
            continue
        compare(count, data, kind)
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
