"""Small tokenizers and text models."""

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from tgfr.core import seed_everything

CAPTIONS = [
    "He has a beard.",
    "She has wavy blond hair, and high cheekbones; she wears a hat.",
    "Smiles",
    "",
    "a naïve café—owner",
]


def tiny_tokenizer(specials=True):
    words = "[PAD] [UNK] [CLS] [SEP] he she has a hair and blond wavy beard high cheek ##bones . smile ##s".split()
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    if specials:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def tiny_bert(layers=2, **tokenizer):
    seed_everything(0)
    config = BertConfig(
        vocab_size=32, hidden_size=24, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32
    )
    return BertModel(config, add_pooling_layer=False), tiny_tokenizer(**tokenizer)


TEXT = dict(
    vocab_size=60,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=40,
)


def of(kind, **config):
    "A model of transformers with random weights."
    model = getattr(transformers, kind)
    return model(model.config_class(**config))
