"""What a compiled kernel may take."""

SPILLED = 64
"""Bytes of registers that a thread may spill: a few scalars, which stay in the first cache.

Whether the last few registers fit is decided anew by every version of Triton: 4 bytes of one kernel with 3.6 and 3.7,
none with 3.8 and 3.9. A tile that is too large spills hundreds.
"""
