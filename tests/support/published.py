"""An artifact that a tiny reasoner could use, with a record of `test` behind it."""

from __future__ import annotations

from safethink.models.hashes import chat_template_hash, tokenizer_hash
from safethink.prefix import Identity, Metric, Prefix, PrefixArtifact
from tests.support import chat_reasoner

TEXTS = ("Wait, think safely", "Hmm, let me see")


def metric(value: float) -> Metric:
    return Metric(value=value, low=value - 0.05, high=value + 0.05, n=300, clusters=6)


def artifact(guarded_asr: float = 0.2) -> PrefixArtifact:
    tokenizer = chat_reasoner.tokenizer()
    return PrefixArtifact(
        name="learned",
        prefixes=tuple(Prefix(text=text, token_ids=chat_reasoner.encode(text)) for text in TEXTS),
        reasoner=Identity(name="ada/tiny-reasoner", revision="c0ffee", sha256="a" * 64),
        tokenizer=Identity(name="ada/tiny-reasoner", sha256=tokenizer_hash(tokenizer)),
        chat_template=Identity(name="ada/tiny-reasoner", sha256=chat_template_hash(tokenizer)),
        monitor=Identity(name="ada/tiny-guard", sha256="b" * 64),
        threshold=0.25,
        seeds={"search": 3},
        config={
            "run": {"thought": {"prefix_separator": "\n"}, "sampling": {"temperature": 0.6, "top_p": 0.95}},
            "search": {"kind": "gcg", "length": 4, "steps": 60},
            "name": "learned",
        },
        data_fingerprint="d" * 64,
        selected_by="testbed dev_judge",
        reported_by="testbed",
        test_evaluations=1,
        metrics={
            "recovery_rate": metric(0.8),
            "asr_test": metric(guarded_asr),
            "asr_undefended_test": metric(0.7),
            "asr_change_test": metric(guarded_asr - 0.7),
            "learned_on_xstest": metric(0.0),
        },
    )
