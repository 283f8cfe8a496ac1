"""What a config.json of a text model may choose."""

import json
import time

import pytest
import torch
from text_models import TEXT, of, tiny_bert, tiny_tokenizer

from tgfr.core import TgfrError
from tgfr.encoders.text_encoders import TransformerTextEncoder, load_text_encoder


@pytest.mark.parametrize(
    "config, said",
    [
        (dict(model_type="gpt2"), "a gpt2 model, which reads only backwards"),
        (dict(model_type="llama"), "reads only backwards"),
        (dict(model_type="bert", is_decoder=True), "which writes text"),
        (dict(model_type="opt"), "reads only backwards"),
        (dict(model_type="blip-2"), "no text tower"),
        (dict(model_type="vilt"), "no text tower"),
        (dict(model_type="bart"), "a bart model"),
        (dict(model_type=["bert"]), "no readable"),
        (dict(model_type="bert", vocab_size=10**9), "claims"),
        (dict(model_type="bert", vocab_size=10**12), "vocab_size"),
        (dict(model_type="bert", num_hidden_layers=10**6), "num_hidden_layers"),
        (dict(model_type="bert", vocab_size=2**20, hidden_size=2**14, num_attention_heads=1), "claims"),
        (dict(model_type="convbert"), "no text tower"),
        (dict(model_type="bert", hidden_act="../gelu"), "hidden_act"),
        (dict(model_type="clip", text_config=[1]), "no readable"),
        ([], "no readable"),
        (dict(model_type="modernbert", num_hidden_layers=10**5), "num_hidden_layers"),
    ],
)
def test_configs_that_are_refused_by_name(config, said, tmp_path):
    of("BertModel", **TEXT).save_pretrained(tmp_path), tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    start = time.monotonic()
    with pytest.raises(TgfrError, match=said) as error:
        TransformerTextEncoder(tmp_path)
    assert "\n" not in str(error.value) and time.monotonic() - start < 10


def test_a_config_chooses_nothing_that_runs(tmp_path, monkeypatch):
    """Code, classes, kernels, quantisation, adapters, paths: beside a sound BERT they change nothing, and no module of
    transformers' for fetching code or kernels is asked."""
    bert, tokenizer = tiny_bert()
    bert.save_pretrained(tmp_path / "m"), tokenizer.save_pretrained(tmp_path / "m")
    wanted = TransformerTextEncoder(tmp_path / "m", dim=8).transformer.state_dict()
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\nclass Config: pass\nclass Words: pass\n"
    )
    (tmp_path / "m/adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "someone/else", "peft_type": "LORA"})
    )
    (tmp_path / "m/model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../../secret.safetensors"}})
    )
    (tmp_path / "m/generation_config.json").write_text(json.dumps({"custom_generate": "someone/else"}))
    (tmp_path / "private.txt").write_text("secret\n")
    words = json.loads((tmp_path / "m/tokenizer_config.json").read_text())
    code = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Words", "evil.Words"]}
    fields = [
        {"auto_map": code},
        {"architectures": ["TrainingArguments"]},
        {"_attn_implementation": "someone/kernels"},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"_attn_implementation_internal": "x/y"},
        {"experts_implementation": "x/y"},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"_name_or_path": "someone/else"},
        {"custom_pipelines": {"a": {"impl": "evil.Model"}}},
        {"torch_dtype": "evil"},
        {"dtype": "evil"},
        {"tokenizer_class": "evil.Words"},
        {"use_kernels": True},
        {"base_model_tp_plan": {"a": "b"}},
        {"sub_configs": {"a": "b"}},
        {"pruned_heads": {"0": [0]}},
        {"adapter_path": "/"},
        {"id2label": {"0": 5}},
    ]
    from transformers import dynamic_module_utils

    monkeypatch.setattr(
        dynamic_module_utils, "get_class_from_dynamic_module", lambda *a, **k: pytest.fail("code was asked for")
    )
    for more in [*fields, {k: v for f in fields for k, v in f.items()}]:
        (tmp_path / "m/config.json").write_text(json.dumps(config | more))
        (tmp_path / "m/tokenizer_config.json").write_text(
            json.dumps(
                words
                | {
                    "auto_map": code,
                    "vocab_file": str(tmp_path / "private.txt"),
                    "tokenizer_file": str(tmp_path / "private.txt"),
                    "chat_template": "{{ x }}",
                    "name_or_path": "/",
                }
            )
        )
        encoder = TransformerTextEncoder(tmp_path / "m", dim=8)
        assert (
            all(torch.equal(t, wanted[name]) for name, t in encoder.transformer.state_dict().items())
            and "secret" not in encoder.tokenizer.get_vocab()
        )
        assert not {"auto_map", "architectures", "quantization_config", "_attn_implementation"} & set(
            encoder.config["transformer"]
        )
    encoder.save(tmp_path / "ours")
    assert (
        "private" not in "".join(p.read_text() for p in (tmp_path / "ours").rglob("*.json"))
        and not (tmp_path / "ran").exists()
    )
    saved = json.loads((tmp_path / "ours/config.json").read_text())
    (tmp_path / "ours/config.json").write_text(
        json.dumps(saved | {"transformer": saved["transformer"] | {k: v for f in fields for k, v in f.items()}})
    )
    load_text_encoder(tmp_path / "ours")
    assert not (tmp_path / "ran").exists()
