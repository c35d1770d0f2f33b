"""Fetch, build and find llama.cpp and the native engine; what the CPU can do."""

from cpuft.toolchain.locate import Toolchain, locate, tool_environment, use_llama_cpp

__all__ = ["Toolchain", "locate", "tool_environment", "use_llama_cpp"]
