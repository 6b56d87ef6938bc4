"A model of each kind is trained to its end from its folder, in bf16, and what it became is read back without pgrpo."
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from pgrpo.adapter import wrap
from pgrpo.config import preset
from pgrpo.encode import encode_completions
from pgrpo.policy import end_ids, load_policy, sample
from pgrpo.pool import template_pool
from pgrpo.problems import encode_prompt, handwritten
from pgrpo.train import RunFolder, Trainer, run_problems, train
from pgrpo.train.models import KINDS, tiny

SETTINGS = dict(
    dtype="bfloat16", arm="route", steps=2, prompts=2, group_size=4, teacher_share=0.5, max_new_tokens=8, n_pairs=4,
    k=2, n_problems=4, modes="sentinel,run_tests", pair_modes="sentinel,run_tests", eval_problems=1, eval_every=1,
    refresh=1, checkpoint_every=1, probe_every=0, micro_batch=3, beta=1e-3,
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGRPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def settings_of(kind, folder, **more):
    "A short run of a tiny model, with a pool of hacks, since random weights find none themselves."
    problems, _ = run_problems(preset("smoke", **SETTINGS | dict(teacher_share=0.0, dtype="float32")))
    template_pool(problems, 2).save(folder / "pool.jsonl.gz")
    own = dict(policy=str(tiny(kind, folder / kind)), pool=str(folder / "pool.jsonl.gz"))
    return preset("smoke", **SETTINGS | own | more)


@pytest.mark.parametrize("kind, checkpointing", [(kind, kind in ("qwen3_5", "llama")) for kind in KINDS])
def test_two_steps(kind, checkpointing, tmp_path):
    config = settings_of(kind, tmp_path, checkpointing=checkpointing)
    summary = train(config, tmp_path / "run", progress=False)
    rows = RunFolder(tmp_path / "run").rows()
    assert len(rows) == 2 and rows[1]["norm_delta_s"] > rows[0]["norm_delta_s"] > 0 and rows[1]["norm_delta_s_hack"] > 0
    assert all(0 < row["cin_t"] <= 1 and row["cout"] < 1e-3 for row in rows) and 0 < rows[1]["basis_overlap"] <= 1
    assert set(summary) == {"base", "trained", "deployed", "closed", "renamed"}
    assert set(summary["base"]) == set(summary["renamed"]["trained"]) == {"sentinel", "run_tests", "mean"}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["checkpointing"] == checkpointing

    done = Trainer(config, tmp_path / "run")  # from the checkpoint
    assert done.state.step == 2
    done.state.adapter.fold().save_pretrained(tmp_path / "shipped")
    shipped = AutoModelForCausalLM.from_pretrained(tmp_path / "shipped", dtype=torch.bfloat16).eval()
    ids = torch.tensor([done.tokenizer(done.held[0].prompt(done.tokenizer)).input_ids])
    with torch.no_grad(), done.state.adapter.deployed(), done.state.adapter.folded():
        assert torch.equal(shipped(ids).logits, done.model(ids).logits)
    base = load_policy(config.policy, torch.bfloat16)[0]
    assert not torch.equal(shipped(ids).logits, base(ids).logits)


def test_checkpointing_changes_no_row(tmp_path):
    config = settings_of("qwen3", tmp_path, eval_every=0)
    def rows(checkpointing):
        for row in Trainer(replace(config, checkpointing=checkpointing)).steps():
            yield {k: v for k, v in row.items() if not k.startswith(("sec_", "tokens"))}
    found = list(rows(False))
    assert found and found == list(rows(True))


def test_texts_and_samples_end_alike(tmp_path):
    model, tokenizer = load_policy(tiny("gemma2", tmp_path / "gemma2"))
    encoded = encode_completions(tokenizer, [encode_prompt("What?", tokenizer)], ["answer"])
    turns = [dict(role="user", content="What?"), dict(role="assistant", content="answer")]
    said = tokenizer.apply_chat_template(turns, tokenize=False)
    assert encoded.input_ids[0].tolist() == tokenizer(said, add_special_tokens=False).input_ids
    assert tokenizer.eos_token != "<eos>"
    assert tokenizer.convert_tokens_to_ids("<eos>") in model.generation_config.eos_token_id


def test_an_incomplete_folder_is_refused(tmp_path):
    folder = tiny("qwen3", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata=dict(format="pt"))
    with pytest.raises(OSError, match="lack model.layers.1.mlp.up_proj.weight, which would be random"):
        load_policy(str(folder))
    folder = tiny("llama", tmp_path / "mute")
    for file in folder.glob("*token*"): file.unlink()
    with pytest.raises(OSError): load_policy(str(folder))


def test_a_mixture_of_experts_is_refused():
    sizes = dict(
        vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2,
    )
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **sizes))
    with pytest.raises(ValueError, match="mixture of experts.*choose a dense model"): wrap(model)
    assert len(wrap(model, targets=("q_proj", "v_proj"))) == 4


PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
FILTERED = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content | selectattr('type', 'equalto', 'text') %}"
    "{{ part.text }}{% endfor %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def with_template(folder, template):
    tiny("qwen3", folder)
    for file in folder.glob("chat_template*"): file.unlink()
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


@pytest.mark.parametrize("template", [PARTS, FILTERED])
def test_a_template_that_wants_parts_is_given_parts(template, tmp_path):
    "It used to render the user's turn empty, and the run went to its end on prompts that said nothing."
    _, tokenizer = load_policy(with_template(tmp_path / "model", template))
    assert encode_prompt("Sort the list.", tokenizer) == "<user>Sort the list.<assistant>"
    parts = [dict(role="user", content=[dict(type="text", text="Sort it.")])]
    assert tokenizer.apply_chat_template(parts, tokenize=False) == "<user>Sort it."


@pytest.mark.parametrize("template, says", [
    ("<user><assistant>", "leaves out what the user says"),
    ("{{ raise_exception('system first') }}", "raises TemplateError on a user's turn .system first"),
    ("{{ messages[1].content }}", "raises UndefinedError on a user's turn"),
    ("{% for %}", "raises TemplateSyntaxError on a user's turn"),
])
def test_a_template_that_says_nothing_is_refused(template, says, tmp_path):
    with pytest.raises(OSError, match=f"the chat template of .*model' {says}.*chat_template.jinja"):
        load_policy(with_template(tmp_path / "model", template))


def test_a_prompt_that_a_template_does_not_write_out_is_refused(tmp_path):
    "A probe at loading sees one text; each prompt is looked at by itself."
    short = "{% for m in messages %}<{{ m.role }}>{{ m.content[:40] | trim }}{% endfor %}"
    _, tokenizer = load_policy(with_template(tmp_path / "model", short))
    assert encode_prompt(" Sort the list. \n", tokenizer) == "<user>Sort the list."
    problem = handwritten()[0]
    with pytest.raises(ValueError, match="template leaves out what the user says .'.*would not be asked anything"):
        problem.prompt(tokenizer)
    tokenizer.chat_template = PARTS  # as a tokenizer has it that load_policy has not seen
    with pytest.raises(ValueError, match="load it with pgrpo.policy.load_policy"): encode_prompt("Sort.", tokenizer)


def test_a_template_may_refuse_the_probe_of_its_end(tmp_path):
    template = (
        "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('users alone') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    model, tokenizer = load_policy(with_template(tmp_path / "model", template))
    assert tokenizer.eos_token_id in end_ids(model, tokenizer) and encode_prompt("Hi.", tokenizer) == "Hi."


def test_a_prompt_without_tokens_is_refused(tmp_path):
    model, tokenizer = load_policy()
    with pytest.raises(ValueError, match="prompt 1 has no tokens"): sample(model, tokenizer, ["Hi.", ""])
