"""The table of families of reasoners: what is true of each stands in its row.

Nothing else in the project knows a family by name. Published sampling names its source; what authors say of one model
of a family may differ for another.
"""

from __future__ import annotations

from typing import Final

from safethink.config.family import Family, PublishedSampling, Signs

_MLLAMA = ("mllama", "mllama_text_model")
_QWEN3 = ("qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_moe")
_DEEPSEEK = ("deepseek_v3", "deepseek_v32", "deepseek_v4")
_SHARED = ("qwen3", "deepseek_v", "kimi", "lfm2", "olmo", "glm", "granite", "smollm3", "exaone")
"""Beginnings of architectures of which some models reason and others do not, with one vocabulary."""

DECLARED: Final = Family("declared", models="any whose tokenizer or user says its tags", open_break="")
"""A reasoner that is none of those known, by the tags that its tokenizer or its user declares."""

PLAIN: Final = Family(
    "plain",
    models="any that does not reason, or is told not to: its answer is watched step by step",
    hub=("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-4B-Instruct-2507"),
    thinks=False,
    open_tag="",
    open_break="",
    close_tag="",
    answer_break="",
)
"""A model that answers without thinking."""

FAMILIES: Final = (
    Family(
        "testbed",
        Signs(("{% else %}{% set content = message.content %}{% endif %}<|im_start|>{{ message.role }}\n",)),
        "the shipped testbed",
        ("testbed",),
        opener_in_template=True,
    ),
    Family(
        "gpt-oss",
        Signs(("<|channel|>analysis<|message|>",)),
        "gpt-oss (20B, 120B): harmony's analysis messages, then the final channel",
        ("openai/gpt-oss-20b",),
        open_tag="<|channel|>analysis<|message|>",
        open_break="",
        close_tag="<|channel|>final<|message|>",
        close_lead="<|end|><|start|>assistant",
        message_breaks=(
            "<|end|><|start|>assistant<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>commentary<|message|>",
        ),
        # Recipient and content type (openai/harmony, docs/format.md); too short to hide a thought in.
        header_fields=r"( to=[\w.:-]{1,40})?( ?<\|constrain\|> ?\w{1,12}| json| code)?",
        answer_break="",
        sampling=PublishedSampling(1.0, source="README of openai/gpt-oss"),
    ),
    Family(
        "muse-glimmer",
        Signs(("<|start|>assistant to=self<|message|>",)),
        "Muse Glimmer 30B: messages to itself, then one to the user",
        ("meta-models/Muse-Glimmer-30B",),
        open_tag="<|start|>assistant to=self<|message|>",
        open_break="",
        close_tag="<|start|>assistant to=user<|message|>",
        close_lead="<|eom|>",
        message_breaks=("<|eom|><|start|>assistant to=self<|message|>", "<|eom|><|start|>assistant<|message|>"),
        # The recipient: a tool.
        header_fields=r"( to=(?!user\b)[\w.:-]{1,40})?",
        answer_break="",
        sampling=PublishedSampling(1.0, 0.95, 64, source="vLLM recipe of meta-models/Muse-Glimmer-30B"),
    ),
    Family(
        "gemma-4",
        Signs(("<|channel>", "<channel|>")),
        "Gemma 4",
        ("google/gemma-4-E4B-it", "google/gemma-4-31B-it"),
        open_tag="<|channel>thought",
        close_tag="<channel|>",
        answer_break="",
        sampling=PublishedSampling(1.0, 0.95, 64, source="generation_config of google/gemma-4-31B-it"),
    ),
    Family(
        "begin-of-thought",
        Signs(("<|begin_of_thought|>",)),
        "OpenThinker, Sky-T1",
        ("open-thoughts/OpenThinker-7B", "NovaSky-AI/Sky-T1-32B-Preview"),
        open_tag="<|begin_of_thought|>",
        open_break="\n\n",
        close_tag="<|end_of_thought|>",
        answer_tags=("<|begin_of_solution|>", "<|end_of_solution|>"),
    ),
    Family(
        "deepseek-v3.1",
        Signs(("<｜Assistant｜>", "thinking"), _DEEPSEEK, opened=True),
        "DeepSeek-V3.1 and V3.2, thinking",
        ("deepseek-ai/DeepSeek-V3.1",),
        opener_in_template=True,
        open_break="",
        answer_break="",
        sampling=PublishedSampling(0.6, 0.95, source="generation_config of DeepSeek-V3.2-Exp; V3.2's card says 1.0"),
    ),
    Family(
        "deepseek-r1-distill",
        Signs(("<｜Assistant｜>", "think>")),
        "DeepSeek-R1 and its distilled models",
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
        opener_in_template=True,
        sampling=PublishedSampling(0.6, 0.95, source="README of deepseek-ai/DeepSeek-R1"),
    ),
    Family(
        "phi-4-reasoning",
        Signs(("<|im_sep|>", "<think>")),
        "Phi-4-reasoning (plus, mini)",
        ("microsoft/Phi-4-reasoning",),
        open_break="",
        sampling=PublishedSampling(0.8, 0.95, source="card of microsoft/Phi-4-reasoning"),
    ),
    Family(
        "nemotron-3",
        # Its thinking is turned off by these very tags.
        Signs(("<|im_start|>assistant\\n<think></think>",)),
        "Nemotron 3 (Nano, Super, Ultra)",
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",),
        opener_in_template=True,
        answer_break="\n",
        sampling=PublishedSampling(1.0, 0.95, source="card of Nemotron 3 Super; Nano's top_p is 1"),
    ),
    Family(
        "qwen3.5",
        Signs(("<|im_start|>", "<function=", "enable_thinking")),
        "Qwen3.5, Qwen3.6, Qwen3.8",
        ("Qwen/Qwen3.5-4B", "Qwen/Qwen3.6-27B", "Qwen/Qwen3.8-27B"),
        opener_in_template=True,
        sampling=PublishedSampling(1.0, 0.95, 20, source="card of Qwen/Qwen3.5-35B-A3B, thinking, general tasks"),
    ),
    Family(
        "qwen3-thinking-2507",
        Signs(model_types=_QWEN3, opened=True),
        "Qwen3-*-Thinking-2507, Qwen3-VL-*-Thinking",
        ("Qwen/Qwen3-4B-Thinking-2507",),
        opener_in_template=True,
        sampling=PublishedSampling(0.6, 0.95, 20, source="card of Qwen/Qwen3-30B-A3B-Thinking-2507"),
    ),
    Family(
        "qwen3",
        Signs(("enable_thinking",), _QWEN3),
        "Qwen3",
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-8B"),
        sampling=PublishedSampling(0.6, 0.95, 20, source="card of Qwen/Qwen3-8B, thinking"),
    ),
    Family(
        "qwq",
        Signs(("<|im_start|>",), ("qwen2",), opened=True),
        "QwQ-32B",
        ("Qwen/QwQ-32B",),
        opener_in_template=True,
        sampling=PublishedSampling(0.6, 0.95, source="card of Qwen/QwQ-32B"),
    ),
    Family(
        "glm-4.7",
        Signs(("[gMASK]<sop>", "<think>", "enable_thinking"), opened=True),
        "GLM-4.7",
        ("zai-org/GLM-4.7",),
        opener_in_template=True,
        open_break="",
        answer_break="",
        sampling=PublishedSampling(1.0, 0.95, source="card of zai-org/GLM-4.7"),
    ),
    Family(
        "glm-4-moe",
        Signs(("[gMASK]<sop>", "<think>", "enable_thinking")),
        "GLM-4.5, GLM-4.6",
        ("zai-org/GLM-4.5-Air", "zai-org/GLM-4.6"),
        open_lead="\n",
        open_break="",
        answer_break="\n",
        sampling=PublishedSampling(1.0, 0.95, source="Z.ai's API documentation of GLM-4.6"),
    ),
    Family(
        "smollm3",
        Signs(("Custom Instructions", "/no_think", "<think>")),
        "SmolLM3",
        ("HuggingFaceTB/SmolLM3-3B",),
        answer_break="\n",
        sampling=PublishedSampling(0.6, 0.95, source="card of HuggingFaceTB/SmolLM3-3B"),
    ),
    Family(
        "olmo-3-think",
        Signs(("<think>",), ("olmo2", "olmo3"), opened=True),
        "Olmo 3 Think",
        ("allenai/Olmo-3-7B-Think",),
        opener_in_template=True,
        open_break="",
        sampling=PublishedSampling(0.6, 0.95, source="parameters of olmo-3:32b-think in Ollama's library"),
    ),
    Family(
        "seed-oss",
        Signs(("<seed:think>",)),
        "Seed-OSS",
        ("ByteDance-Seed/Seed-OSS-36B-Instruct",),
        open_tag="<seed:think>",
        open_break="",
        close_tag="</seed:think>",
        answer_break="\n",
        sampling=PublishedSampling(1.1, 0.95, source="README of ByteDance-Seed/seed-oss"),
    ),
    Family(
        "exaone-4",
        Signs(("skip_think", "<think>")),
        "EXAONE 4.0, EXAONE 4.5",
        ("LGAI-EXAONE/EXAONE-4.0-1.2B",),
        opener_in_template=True,
        sampling=PublishedSampling(0.6, 0.95, source="README of LG-AI-EXAONE/EXAONE-4.0; that of 4.5 says 1.0"),
    ),
    Family(
        "minimax-m2",
        Signs(("]~b]", "<think>")),
        "MiniMax-M2",
        ("MiniMaxAI/MiniMax-M2",),
        opener_in_template=True,
        sampling=PublishedSampling(1.0, 0.95, 40, source="README of MiniMax-AI/MiniMax-M2"),
    ),
    Family(
        "ministral-reasoning",
        Signs(("[THINK]", "[/THINK]")),
        "Ministral 3 Reasoning, Magistral",
        ("mistralai/Ministral-3-8B-Reasoning-2512",),
        open_tag="[THINK]",
        open_break="",
        close_tag="[/THINK]",
        answer_break="",
        sampling=PublishedSampling(0.7, 0.95, source="vLLM recipe of mistralai/Ministral-3-8B-Reasoning-2512"),
    ),
    Family(
        "kimi-k2-thinking",
        Signs(("<|im_assistant|>", "<think>")),
        "Kimi K2 Thinking",
        ("moonshotai/Kimi-K2-Thinking",),
        open_break="",
        answer_break="",
        sampling=PublishedSampling(1.0, source="Moonshot's API documentation of kimi-k2-thinking"),
    ),
    Family(
        "llava-cot",
        Signs(model_types=_MLLAMA, ambiguous=True),
        "LLaVA-CoT: stage tags up to `<CONCLUSION>`, as text",
        ("Xkev/Llama-3.2V-11B-cot",),
        open_tag="<SUMMARY>",
        open_break="",
        close_tag="<CONCLUSION>",
        close_lead="\n\n",
        answer_break=" ",
        answer_tags=("</CONCLUSION>",),
        step_delimiter=("\n\n", "</SUMMARY>", "</CAPTION>", "</REASONING>"),
        sampling=PublishedSampling(0.6, 0.9, source="inference code of Xkev/Llama-3.2V-11B-cot"),
    ),
    Family(
        "llamav-o1",
        Signs(model_types=_MLLAMA, ambiguous=True),
        "LlamaV-o1: four chat turns, as text",
        ("omkarthawakar/LlamaV-o1",),
        open_tag="",
        open_break="",
        close_tag="",
        message_breaks=("<|eot_id|>",),
        answer_break="",
        stage_turns=(
            "\nSummarize how you will approach the problem and explain the steps you will take to reach the answer.",
            "Provide a detailed description of the image, particularly emphasizing the aspects related to the "
            "question.",
            "Provide a chain-of-thought, logical explanation of the problem. This should outline step-by-step "
            "reasoning.",
            "State the final answer in a clear and direct format. It must match the correct answer exactly.",
        ),
        sampling=PublishedSampling(0.0, source="evaluation code of omkarthawakar/LlamaV-o1"),
    ),
    Family(
        "lfm2.5-thinking",
        Signs(("List of tools: [", "</think>"), ambiguous=True),
        "LFM2.5-Thinking, whose template other LFM2.5 models have too",
        ("LiquidAI/LFM2.5-1.2B-Thinking",),
        open_break="",
        sampling=PublishedSampling(0.05, top_k=50, source="card of LiquidAI/LFM2.5-1.2B-Thinking"),
    ),
    Family(
        "think",
        Signs(tags=True, shared_vocabulary=_SHARED),
        "any other whose chat template or vocabulary has `<think>` and `</think>`",
        answer_tags=("<answer>", "</answer>", "<response>", "</response>"),
    ),
)
"""Families that are told by their signs; the first that fits is taken."""
