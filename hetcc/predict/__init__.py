"""Predictions without code: price and place a model at many sizes from a few captures, with ranges.

Everything this room returns is *predicted*.
"""

from hetcc.predict.figures import Prediction, predict_sizes

__all__ = ["Prediction", "predict_sizes"]
