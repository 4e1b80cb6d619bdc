"""A bundle is the model as a whole: encoders, fusion, heads, vocabularies, licences, accuracy.

`spec` reads `bundle.yaml` without loading a weight, `weights` loads strictly, `model` is the loaded
whole: clips in, results out.
"""
