"""The commands of `bananas` for operators: what the package `operate` finds, as text, tables and JSON."""
