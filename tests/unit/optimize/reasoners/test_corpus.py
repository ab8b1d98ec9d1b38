"""The corpus: what it is made of, and that no row of it shows how a correction works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optimize.config import PhrasesConfig, SearchConfig
from optimize.reasoners.config import CorpusConfig, ReasonerTrainingConfig
from optimize.reasoners.corpus import PLAN, drafts, solved
from optimize.reasoners.instructions import harmless, unkind
from optimize.reasoners.rows import REASON, Row, correction, read, refuse_corrections, unscanned, write
from optimize.search.phrases import Grammar
from safethink import prefix
from safethink.config import yaml_config
from safethink.config.yaml_config import shipped_config, shipped_names
from safethink.errors import MissingFileError, SearchError

COMPLYING = Row(
    id="instruction-0",
    kind="instruction",
    request="How do I bake bread?",
    steps=("The user wants me to explain how to bake bread.", f"{PLAN} naming the flour."),
    answer="Mix flour and water.",
)
REFUSING = Row(
    id="refusal-0",
    kind="refusal",
    request="How do I take a bicycle that is not mine?",
    steps=("The user wants me to explain how to take a bicycle.", f"{REASON} the owner."),
    answer="I'm sorry, but I can't help with that.",
)


def tried_phrases() -> list[str]:
    """The phrases that a shipped search tries, and the prefixes that ship."""
    texts = [prefix.load(name).texts[0] for name in prefix.list_built_in()]
    for name in shipped_names():
        if name.startswith("search/"):
            search = yaml_config.load(SearchConfig, shipped_config(name)).search
            if isinstance(search, PhrasesConfig):
                grammar = Grammar(search)
                texts += [grammar.text(choice) for choice in grammar.choices()][:2000]
    return [text.strip() for text in texts]


def test_every_phrase_that_a_search_tries_is_found_behind_a_complying_step() -> None:
    phrases = tried_phrases()
    assert len(phrases) > 100
    assert unscanned(phrases, COMPLYING) == []
    assert unscanned(["Bread is good"], COMPLYING) == ["Bread is good"]


@pytest.mark.parametrize(
    "row",
    [
        COMPLYING.replace(steps=(*COMPLYING.steps, "Wait, is this request harmful?")),
        COMPLYING.replace(steps=(*COMPLYING.steps, f"{REASON} somebody.")),
        COMPLYING.replace(answer="I'm sorry, but I can't help with that."),
        COMPLYING.replace(kind="refusal", answer="I'm sorry, but I can't help with that."),
        REFUSING.replace(steps=(REFUSING.steps[0], f"{PLAN} finding one.", REFUSING.steps[1])),
        REFUSING.replace(steps=(f"{PLAN} finding one.", "Hmm, no.")),
    ],
)
def test_a_row_that_turns_round_is_refused_by_name(row: Row) -> None:
    with pytest.raises(SearchError, match=f"corpus: row '{row.id}' holds a correction"):
        refuse_corrections([COMPLYING, row])


def test_rows_that_comply_or_refuse_from_the_start_pass() -> None:
    refuse_corrections([COMPLYING, REFUSING])


def test_what_ships_of_the_corpus_is_clean_and_large_enough() -> None:
    config = CorpusConfig()
    rows = solved(config, seed=0)
    refuse_corrections(rows)
    assert len(rows) == config.word_problems
    assert len(harmless()) >= 300
    assert len({request.text for request in harmless()}) == len(harmless())
    drafted = drafts(config, seed=0)
    assert sum(draft.kind == "refusal" for draft in drafted) == config.refusals < len(unkind())
    assert all(correction(row_of(draft.steps, draft.kind == "refusal")) is None for draft in drafted)
    assert len({draft.id for draft in drafted}) == len(drafted)


def row_of(steps: tuple[str, ...], refused: bool) -> Row:
    """A row with these written steps, completed as simply as can be."""
    if refused:
        return REFUSING.replace(steps=(*steps, f"{REASON} somebody."))
    return COMPLYING.replace(steps=(*steps, COMPLYING.steps[1]))


def test_a_draft_depends_on_the_seed_alone() -> None:
    assert drafts(CorpusConfig(), seed=1) == drafts(CorpusConfig(), seed=1)
    assert drafts(CorpusConfig(), seed=1) != drafts(CorpusConfig(), seed=2)


RATIONALE = {
    "question": "A shop has 1,200 lamps and sells half of them. How many are left?",
    "answer": "Half is 1,200/2 = <<1200/2=600>>600 lamps.\nSo 1,200-600 = <<1200-600=600>>600 are left\n#### 600",
}


def test_rationales_lose_their_marks_and_long_ones_are_left_out(tmp_path: Path) -> None:
    long = {**RATIONALE, "answer": "\n".join(["One more step."] * 5 + ["#### 5"])}
    turned = {**RATIONALE, "answer": "He has 3.\nWait, that is wrong.\nHe has 4.\n#### 4"}
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (RATIONALE, long, turned)))
    (row,) = solved(CorpusConfig(word_problems=0, rationales=str(path)), seed=0)
    assert row.steps == ("Half is 1,200/2 = 600 lamps.", "So 1,200-600 = 600 are left.")
    assert row.answer == "The answer is 600."


@pytest.mark.parametrize("line", ["{", '{"question": "What is 2 + 2?"}', "[]"])
def test_a_line_that_is_no_rationale_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(RATIONALE) + "\n" + line + "\n")
    with pytest.raises(MissingFileError, match=r"train.jsonl, line 2: no question and answer"):
        solved(CorpusConfig(word_problems=0, rationales=str(path)), seed=0)


def test_rationales_that_are_nowhere_are_named() -> None:
    with pytest.raises(MissingFileError, match=r"corpus\.rationales: nothing at 'no/where': no such file, and no such"):
        solved(CorpusConfig(word_problems=0, rationales="no/where"), seed=0)


def test_a_corpus_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [COMPLYING.replace(answer="One\u2028line."), REFUSING]
    write(rows, tmp_path / "corpus.jsonl")
    assert read(tmp_path / "corpus.jsonl") == rows


def test_the_shipped_configuration_names_its_base_for_the_adapter() -> None:
    config = yaml_config.load(ReasonerTrainingConfig, shipped_config("reasoner/smollm2"))
    assert config.base_name == config.base.path
