"""Portable observers: the same ranges from the same activations, whoever computed them."""
