"""Tests of the native code, in C++; pytest compiles and runs them."""
