"""A plug-in with a text encoder, as a user may write one."""

import torch

from tgfr.data.captions import pad_rows
from tgfr.encoders.features import TextFeatures, l2_normalize
from tgfr.encoders.text_encoders import TEXT_ENCODERS, TextEncoder


@TEXT_ENCODERS.register("by-length")
class ByLength(TextEncoder):
    "A vector for each word, by its number of letters."

    def __init__(self, dim=8, longest=12):
        super().__init__()
        self.config = dict(kind="by-length", dim=dim, longest=longest)
        self.table = torch.nn.Embedding(longest + 1, dim)

    def tokenize(self, captions, generator=None):
        rows = [[min(len(word), self.config["longest"]) for word in self.tokens(caption)] for caption in captions]
        ids, lengths = pad_rows(rows, 0)
        return {"ids": ids, "lengths": lengths}

    def tokens(self, caption):
        return caption.split() or ["?"]

    def forward(self, ids, lengths):
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths.to(ids.device)[:, None]
        words = (self.table(ids) * mask[..., None]).mT
        return TextFeatures(l2_normalize(words.sum(2)), words, mask)
