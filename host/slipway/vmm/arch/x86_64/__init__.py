"""x86-64: layout of a guest's memory and ports, its tables, its first instruction."""
