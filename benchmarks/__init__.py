"""How fast the library is, against targets: `python -m benchmarks`, or with names `python -m benchmarks similarity fit`."""
