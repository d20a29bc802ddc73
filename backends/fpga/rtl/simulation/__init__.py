"""Runs hardware: in the simulators of Amaranth and Verilator, on modelled memory, and through synthesis."""
