"""Encoders: frames, samples or text in, posteriors and token vectors out.

Every encoder is a plain `torch.nn.Module`. None of them opens a file of media or knows a clock;
weights come in through `pipeline.bundles`, never from here.
"""
