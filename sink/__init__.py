"""Opt-in store of personally identifying information for Open edX Aspects, made to be erased again."""

__version__ = "0.1.0"
