"""Inputs, assertions and made-up runs for tests and benchmarks alone; nothing else in atras imports this package."""
