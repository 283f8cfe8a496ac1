#!/usr/bin/env bash
# torch==2.13.0 (CPU), 2026-11-29
#
# Expected (guess written before the run): packing 2,000 captions of 4 to 30 words, 14 on average, skips the padding,
#   half of the rectangle, so that an LSTM trains on them about twice as fast as on the padded rectangle.
# Seen: forward packing does save time; forward and backward together the packed captions take longer than the whole
#   padded rectangle, and three to four times as long as the same captions in groups of one length, unpacked, with the
#   same values to rounding. The backward pass of the packed kernel is what costs.
# Why it matters here: recurrent text encoders of this field pack their captions (AttnGAN's and TGFR's do). At
#   thousands of captions a step that is most of a training's time. tgfr reads many captions length by length.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq torch==2.13.0
cd "$work"
"$work/venv/bin/python" - 2>/dev/null <<'PYTHON'
import sys
import time

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

print("torch", torch.__version__)
torch.manual_seed(0)
torch.set_num_threads(1)
words, longest = 2000, 30
lengths = (4 + (torch.rand(words) ** 1.6 * 27).long()).clamp_max(longest)
captions = torch.randn(words, longest, 300)
rnn = nn.LSTM(300, 128, batch_first=True, bidirectional=True)
real = torch.arange(longest) < lengths[:, None]


def packed(x):
    output, _ = rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(output, batch_first=True, total_length=longest)[0]


def padded(x):
    return rnn(x)[0] * real[..., None]


def grouped(x):
    order = lengths.argsort()
    each, counts = lengths.unique(return_counts=True)
    parts = []
    for length, group in zip(each.tolist(), x[order].split(counts.tolist())):
        output = rnn(group[:, :length])[0]
        parts.append(nn.functional.pad(output, (0, 0, 0, longest - length)))
    return torch.cat(parts)[order.argsort()]


print(f"{words:,} captions, {lengths.float().mean():.1f} of {longest} words on average")
seconds, values = {}, {}
for name, read in (("packed", packed), ("padded", padded), ("grouped", grouped)):
    both = []
    for _ in range(3):
        x = captions.clone().requires_grad_()
        start = time.process_time()
        output = read(x)
        forward = time.process_time() - start
        output.sum().backward()
        both.append((time.process_time() - start, forward))
    seconds[name], forward = sorted(both)[1]
    values[name] = output.detach()
    print(f"{name:8} forward {forward:5.2f} s, with backward {seconds[name]:5.2f} s of CPU")
same = (values["packed"] - values["grouped"]).abs().max().item()
print(f"packed and grouped differ by {same:.1e} at most")
described = seconds["packed"] > seconds["padded"] and seconds["packed"] > 2 * seconds["grouped"] and same < 1e-5
sys.exit(0 if described else 1)
PYTHON
