"""This computer: its CPU, memory, disk and files, and the processes that run on it."""
