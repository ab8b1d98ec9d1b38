"""Trains the testbed's models from a seed and measures them: `safethink-optimize testbed`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safethink.config.mismatch import refuse_other
from safethink.testbed import CARD_FILE
from safethink.testbed.world import World, WorldKind

if TYPE_CHECKING:
    from optimize.testbed.models import Name

MODELS: Final[tuple[Name, ...]] = ("reasoner", "reasoner_null", "guard")
PLAN_FILE: Final = "plan.json"


def train(out: Path, seed: int = 0, kind: WorldKind = "planted") -> Path:
    """Train the models of a world, measure them on `validation`, and write the card.

    Both reasoners and the guard for `planted`, about half an hour on two cores; for another world its reasoner alone,
    which is measured with the shipped guard. Models that are already in `out` are kept, and a killed training goes on
    from its last checkpoint, so the same command finishes what it began.

    Args:
        out: receives a folder for each model and the file `card.json`.
        seed: fixes the dynamics of the world, the corpora and the initial weights.
        kind: of the world.

    Returns:
        The path of the card.

    Raises:
        ConfigError: `out` was begun with another seed, for another world or by another recipe; what differs is named.
    """
    from optimize.testbed import models

    # Half an hour of training must not find out last that there is nowhere to write.
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, seed, kind)
    trained = models.train_tokenizer(seed)
    seconds: dict[Name, float] = {
        name: models.prepare(name, trained, seed, kind).train(out / name)
        for name in models.plans(kind)
        if not (out / name / "model.safetensors").exists()
    }
    return write_card(out, seed, seconds, kind)


def _claim(out: Path, seed: int, kind: WorldKind = "planted") -> None:
    """Write down what is trained here, or check that it was begun the same way."""
    from optimize.testbed.models import plans

    recipe = {name: asdict(plan) for name, plan in plans(kind).items()}
    plan = {**_world(seed, kind), "plans": recipe}
    path = out / PLAN_FILE
    if path.exists():
        refuse_other(path, json.loads(path.read_text(encoding="utf-8")), plan, "another testbed", "give a fresh --out")
    path.write_text(json.dumps(plan, indent=2), encoding="utf-8")


def _world(seed: int, kind: WorldKind) -> dict[str, object]:
    """The world that plan and card agree on."""
    return {"world_seed": seed} if kind == "planted" else {"world_seed": seed, "world_kind": kind}


def write_card(out: Path, seed: int, seconds: dict[Name, float], kind: WorldKind = "planted") -> Path:
    """Measure the models in `out` and write `card.json` beside them.

    Args:
        out: the testbed's folder.
        seed: the seed they were trained from.
        seconds: what training took, for the models trained just now; what an earlier card says of the others is kept.
        kind: the kind of their world.
    """
    from optimize.testbed import card, models
    from safethink.testbed import Folders

    path = out / CARD_FILE
    earlier: dict[str, float] = (
        json.loads(path.read_text(encoding="utf-8"))["training_seconds"] if path.exists() else {}
    )
    content: dict[str, object] = {
        **_world(seed, kind),
        "models": {
            name: {
                "sha256": _sha256(out / name / "model.safetensors"),
                "parameters": models.count_parameters(out / name),
                "steps": plan.steps,
            }
            for name, plan in models.plans(kind).items()
        },
        "training_seconds": {**earlier, **{name: round(taken) for name, taken in seconds.items()}},
        "split": "validation",
        "rows": card.as_json(card.measure(Folders(out), World.make(seed, kind))),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
