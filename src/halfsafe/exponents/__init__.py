"""Chooses whole exponents under windows, at the least cost.

system        columns, equations, cuts and ties as plain data; what a choice costs
factors       tables of costs, and minimising over one column
elimination   one column after the other, exactly
branching     a system as an integer program, for what hangs together too closely
choosing      parts, each solved once, within one budget of time
model         the system of a graph
inserting     folding alone, or with the fewest insertions
"""
