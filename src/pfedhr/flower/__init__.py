"""The same federation on Flower: a simulation by Ray, or real machines over TLS. Only `grid` imports flwr."""
