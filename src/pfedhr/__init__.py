"""Personalised federated learning among clients whose neural networks differ."""
