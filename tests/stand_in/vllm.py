"""A stand-in for vLLM: the calls of it that pgrpo makes, on the CPU, one prompt at a time, strict about its arguments.

It holds a model of its own, read from the folder that it is given, so what it samples depends on the weights that
reached it and on nothing else.
"""
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM, DynamicCache


@dataclass(kw_only=True)
class SamplingParams:
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop_token_ids: list
    seed: int
    ignore_eos: bool
    detokenize: bool


def TokensPrompt(*, prompt_token_ids): return dict(prompt_token_ids=prompt_token_ids)


FUSED = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")  # one matrix each in the real one


class LLM:
    made = []  # every LLM, in order

    def __init__(
        self, *, model, dtype, max_model_len, gpu_memory_utilization, skip_tokenizer_init, generation_config, seed,
        enforce_eager, enable_chunked_prefill, use_tqdm_on_load,
    ):
        assert skip_tokenizer_init and generation_config == "vllm" and 0 < gpu_memory_utilization < 1
        assert enforce_eager and not enable_chunked_prefill and not use_tqdm_on_load  # as it has to be on a CPU
        self.dtype, self.max_model_len, self.seed = dtype, max_model_len, seed
        core = SimpleNamespace(shutdown=lambda: None)
        self.llm_engine = SimpleNamespace(model_executor=None, engine_core=core)  # as one that runs in this process
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.handed = []   # (name, weight) of the last load
        self.loads, self.stale = 0, False
        LLM.made.append(self)
        torch.manual_seed(seed)  # as the real one does to its caller's random state

    def collective_rpc(self, method, *, kwargs):
        assert method == "reload_weights" and list(kwargs) == ["weights_iterator"]
        own, self.handed = dict(self._model.named_parameters()), []
        for name, weight in kwargs["weights_iterator"]:
            if name not in own: raise KeyError(f"there is no weight {name}")
            if (weight.shape, weight.dtype) != (own[name].shape, own[name].dtype):
                raise ValueError(f"{name} is {weight.dtype} {tuple(weight.shape)}")
            with torch.no_grad(): own[name].copy_(weight)
            self.handed.append((name, weight))
        self._check_whole({name.rsplit(".", 1)[0] for name, _ in self.handed})
        self.loads, self.stale = self.loads + 1, True
        return [None]

    def _check_whole(self, handed):
        for name in handed:
            parent, _, last = name.rpartition(".")
            for part in next((parts for parts in FUSED if last in parts), ()):
                if f"{parent}.{part}" not in handed: raise ValueError(f"{name} came without {part}")

    def reset_prefix_cache(self):
        self.stale = False
        return True

    @torch.no_grad()
    def generate(self, prompts, sampling_params, use_tqdm=True):
        if self.stale: raise RuntimeError("the cache holds keys and values of older weights")
        return [
            SimpleNamespace(outputs=[self._complete(p["prompt_token_ids"], how)])
            for p, how in zip(prompts, sampling_params, strict=True)
        ]

    def _complete(self, prompt, how):
        if len(prompt) > self.max_model_len: raise ValueError("the prompt is too long")
        assert how.top_p == 1 and how.top_k in (0, -1) and how.ignore_eos
        generator, cache = torch.Generator().manual_seed(how.seed), DynamicCache(config=self._model.config)
        ids, new = torch.tensor([prompt]), []
        while len(new) < how.max_tokens and (not new or new[-1] not in how.stop_token_ids):
            logits = self._model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0, -1].float()
            if how.temperature:
                new.append(int(torch.multinomial((logits / how.temperature).softmax(-1), 1, generator=generator)))
            else: new.append(int(logits.argmax()))
            ids = torch.tensor([[new[-1]]])
        return SimpleNamespace(token_ids=new, finish_reason="stop" if new[-1] in how.stop_token_ids else "length")
